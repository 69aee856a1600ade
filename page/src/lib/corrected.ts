/** A place that a person moved, in the words that the model had for it: the row then teaches the model's own way. */

import type { Bounds, Size } from "./geometry";

const NUMBER = /\d+(?:\.\d+)?/g;

/** Pixels to a convention's numbers: of the picture, or of the square that it is padded to. */
function ways({ width, height }: Size): ((value: number, axis: number) => number)[] {
  const side = Math.max(width, height);
  const [left, top] = [Math.floor((side - width) / 2), Math.floor((side - height) / 2)];
  const square = (value: number, axis: number) => (value + (axis ? top : left)) / side;
  const picture = (value: number, axis: number) => value / (axis ? height : width);
  const scaled = [1, 100, 1000].flatMap((scale) =>
    [square, picture].map((way) => (value: number, axis: number) => way(value, axis) * scale),
  );
  return [...scaled, (value) => value];
}

/**
 * The text with the place's numbers changed, or null where it is not plain how they are meant.
 *
 * `which` of the places that share the text it is, of `many`; each has as many numbers (x and y in turn).
 */
export function rewritten(
  text: string,
  before: readonly number[],
  after: readonly number[],
  size: Size,
  which = 0,
  many = 1,
): string | null {
  const found = [...text.matchAll(NUMBER)].slice(-before.length * many);
  const own = found.slice(which * before.length, (which + 1) * before.length);
  if (own.length !== before.length) return null;
  const digits = own.map((one) => one[0].split(".")[1]?.length ?? 0);
  // One step of the convention's rounding, whichever way it rounds.
  const fits = (way: (value: number, axis: number) => number) =>
    own.every((one, at) => Math.abs(Number(one[0]) - way(before[at] as number, at % 2)) <= 1.01 * 10 ** -(digits[at] as number));
  const way = ways(size).find(fits);
  if (!way) return null;
  let out = text;
  own.forEach((_, back) => {
    const at = own.length - 1 - back;
    const match = own[at] as RegExpExecArray;
    const said = way(after[at] as number, at % 2).toFixed(digits[at]);
    out = out.slice(0, match.index) + said + out.slice(match.index + match[0].length);
  });
  return out;
}

/** As a convention counts them: two numbers a point, four a box. */
export function numbersOf([x1, y1, x2, y2]: Bounds, point: boolean): number[] {
  return point ? [x1, y1] : [x1, y1, x2, y2];
}
