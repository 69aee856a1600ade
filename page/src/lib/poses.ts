/** Key points of bodies in an answer, and the lines of their skeletons: the server says which points are joined. */

import type { Spot } from "./geometry";
import { fromJson } from "./regions";
import type { Answered } from "./types";

export interface Limb {
  /** The place whose colour the line has. */
  place: number;
  from: Spot;
  to: Spot;
}

function spot(place: Answered | undefined): Spot | null {
  const shape = place && fromJson(place.region);
  return shape?.kind === "point" ? shape.at : null;
}

/** Lines between points of one picture; what names no point of it is left out. */
export function limbs(places: readonly Answered[], item: string): Limb[] {
  const byIndex = new Map(places.map((place) => [place.region["index"], place]));
  return places.flatMap((place, at) => {
    const others = place.region["joined"];
    const to = spot(place);
    if (!to || !Array.isArray(others) || place.item !== item) return [];
    return others.slice(0, 100).flatMap((other: unknown): Limb[] => {
      const one = byIndex.get(other);
      const from = one?.item === item && spot(one);
      return from ? [{ place: at, from, to }] : [];
    });
  });
}

/** Whether a place is one point of a body, which needs no name on the picture until somebody asks for it. */
export function ofBody(places: readonly Answered[], place: Answered): boolean {
  const index = place.region["index"];
  const joins = (one: Answered) => Array.isArray(one.region["joined"]) && one.region["joined"].includes(index);
  return Array.isArray(place.region["joined"]) || (index !== undefined && places.some(joins));
}
