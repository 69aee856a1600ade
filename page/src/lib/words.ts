/** The words of an answer that name a place: marked in the text before it is taken apart, found again behind it. */

import type { Answered } from "./types";

/** Two characters of the private use area hold a place's number between them; answers never contain them. */
const [OPEN, CLOSE] = ["\uE000", "\uE001"];
const PRIVATE = /[\uE000\uE001]/g;

export function linked(text: string, places: readonly Answered[]): string {
  if (PRIVATE.test(text)) return text.replace(PRIVATE, "\uFFFD");
  let out = "";
  let at = 0;
  places.forEach((place, index) => {
    if (place.start < at || place.end <= place.start || place.end > text.length) return;
    out += `${text.slice(at, place.start)}${OPEN}${index}${OPEN}${text.slice(place.start, place.end)}${CLOSE}`;
    at = place.end;
  });
  return out + text.slice(at);
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
