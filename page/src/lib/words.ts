/** The words of an answer that name a place: marked in the text before it is taken apart, found again behind it. */

import type { Answered } from "./types";

/** Two characters of the private use area hold a place's number between them; answers never contain them. */
const [OPEN, CLOSE] = ["\uE000", "\uE001"];
const PRIVATE = /[\uE000\uE001]/g;

/** What a convention writes around a place (`<p>cat</p>[0.1, 0.2]`) is not for people, and would part the words. */
function plain(text: string, label: string): string {
  return text.includes("<") ? text.replace(/<[^<>]*>/g, "").trim() || label || "▢" : text;
}

/** Starts and ends count whole characters (code points), as Python does. */
export function linked(text: string, places: readonly Answered[]): string {
  if (text.search(PRIVATE) >= 0) return text.replace(PRIVATE, "\uFFFD");
  if (!places.length) return text;
  const characters = Array.from(text);
  const part = (from: number, to?: number) => characters.slice(from, to).join("");
  let out = "";
  let at = 0;
  const order = places.map((place, index) => ({ ...place, index })).sort((a, b) => a.start - b.start);
  for (const { start, end, index, label } of order) {
    if (start < at || end <= start || end > characters.length) continue;
    out += `${part(at, start)}${OPEN}${index}${OPEN}${plain(part(start, end), label)}${CLOSE}`;
    at = end;
  }
  return out + part(at);
}

export interface Words {
  text: string;
  /** The place that the words name. */
  place: number | null;
}

export function wordsOf(text: string): Words[] {
  return text
    .split(/(\uE000\d+\uE000[^\uE001]*\uE001?)/)
    .filter(Boolean)
    .map((part) => {
      const match = /^\uE000(\d+)\uE000([^\uE001]*)/.exec(part);
      return match
        ? { text: match[2] ?? "", place: Number(match[1]) }
        : { text: part.replace(PRIVATE, ""), place: null };
    });
}
