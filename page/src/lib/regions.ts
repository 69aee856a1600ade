/** Regions as the server reads and writes them (`omnimix.regions`). */

import { MOST_POINTS, type Shape, type Spot } from "./geometry";

/** Coordinates leave with two digits: a hundredth of a pixel is finer than any hand. */
const round = (value: number): number => Math.round(value * 100) / 100;
const rounded = ([x, y]: Spot): Spot => [round(x), round(y)];

export type RegionJson = Record<string, unknown>;

export function toJson(shape: Shape, label = ""): RegionJson {
  const named = label ? { label } : {};
  switch (shape.kind) {
    case "point":
      return { point: rounded(shape.at), ...named };
    case "box":
      return { box: shape.box.map(round), ...named };
    case "polygon":
      return { polygon: shape.points.map(rounded), ...named };
    case "stroke":
      return { stroke: shape.points.map(rounded), width: round(shape.width), ...named };
  }
}

const isNumbers = (value: unknown, count: number): value is number[] =>
  Array.isArray(value) && value.length === count && value.every((n) => Number.isFinite(n));

const isLine = (value: unknown): value is Spot[] =>
  Array.isArray(value) && value.length <= MOST_POINTS && value.every((p) => isNumbers(p, 2));

/** A shape, or null for what is none (a mask is drawn by `masks.ts`). */
export function fromJson(data: unknown): Shape | null {
  if (typeof data !== "object" || data === null) return null;
  const words = data as Record<string, unknown>;
  const { point, box, xywh, polygon, stroke, width } = words;
  if (isNumbers(point, 2)) return { kind: "point", at: [point[0] as number, point[1] as number] };
  if (isNumbers(box, 4)) {
    const [x1, y1, x2, y2] = box as [number, number, number, number];
    return { kind: "box", box: [x1, y1, x2, y2] };
  }
  if (isNumbers(xywh, 4)) {
    const [x, y, wide, high] = xywh as [number, number, number, number];
    return { kind: "box", box: [x, y, x + wide, y + high] };
  }
  if (isLine(polygon) && polygon.length >= 3) return { kind: "polygon", points: polygon };
  if (isLine(stroke) && stroke.length >= 1) {
    return { kind: "stroke", points: stroke, width: typeof width === "number" && width > 0 ? width : 5 };
  }
  return null;
}
