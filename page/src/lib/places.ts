/** What there are masks of: the marks of a question, and the places that its answer names. */

import { itemsOf } from "./branches";
import { fromJson, toJson, type RegionJson } from "./regions";
import type { Item, Turn } from "./types";

export interface Place {
  item: Item;
  region: RegionJson;
  label: string;
  /** Which place of the answer it is; none for a mark. */
  of?: number;
}

/** Of a branch that ends with an answer. */
export function placesOf(turns: readonly Turn[]): Place[] {
  const items = Object.fromEntries(itemsOf(turns).map((item) => [item.id, item]));
  const reply = turns.at(-1);
  const answered = reply?.versions[reply.shown]?.regions ?? [];
  return [
    ...(turns.at(-2)?.marks ?? []).map(({ item, shape, number }) => ({ item, shape, label: `#${number}` })),
    ...answered.map(({ item, region, label }, of) => ({ item: item ?? "", shape: fromJson(region), label: label || String(of + 1), of })),
  ].flatMap(({ item, shape, ...words }) => {
    const on = items[item];
    return on && shape ? [{ item: on, region: toJson(shape), ...words }] : [];
  });
}
