/** A question taken apart: words, items and marks in reading order. */

import type { Item, Mark } from "./types";

export type Piece =
  | { kind: "text"; text: string }
  | { kind: "item"; item: Item }
  | { kind: "mark"; mark: Mark };

/** How an item is named in a question, counted over the question's own items from 1. */
export const itemName = (number: number): string => `[item ${number}]`;

const MENTION = /#(\d{1,4})\b|\[item (\d{1,4})\]/g;

/**
 * Items that the text does not name stand before it, in their order. Marks that it does not name stand behind
 * their picture where the picture comes with the question, else before the text. A number that nothing has stays
 * text.
 */
export function pieces(text: string, items: readonly Item[], marks: readonly Mark[]): Piece[] {
  const named = new Set<Item | Mark>();
  const said: Piece[] = [];
  let end = 0;
  for (const match of text.matchAll(MENTION)) {
    const mark = match[1] ? marks.find((one) => one.number === Number(match[1])) : undefined;
    const item = match[2] ? items[Number(match[2]) - 1] : undefined;
    if (!mark && (!item || named.has(item))) continue;
    if (match.index > end) said.push({ kind: "text", text: text.slice(end, match.index) });
    end = match.index + match[0].length;
    if (mark) said.push({ kind: "mark", mark });
    else if (item) said.push({ kind: "item", item });
    named.add((mark ?? item) as Item | Mark);
  }
  if (end < text.length) said.push({ kind: "text", text: text.slice(end) });
  const loose = (item: Item | null): Piece[] =>
    marks
      .filter((mark) => !named.has(mark) && (item ? mark.item === item.id : !items.some((i) => i.id === mark.item)))
      .map((mark) => ({ kind: "mark", mark }));
  const before = items
    .filter((item) => !named.has(item))
    .flatMap((item): Piece[] => [{ kind: "item", item }, ...loose(item)]);
  const within = said.flatMap((piece): Piece[] =>
    piece.kind === "item" ? [piece, ...loose(piece.item)] : [piece],
  );
  return [...before, ...loose(null), ...within];
}
