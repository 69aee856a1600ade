/** Masks in answers: COCO run lengths, column by column, as `omnimix.masks` writes them. */

import type { Bounds, Size } from "./geometry";
import type { RegionJson } from "./regions";

/** Runs of a compressed string: groups of five bits, differences from two runs before (COCO API, `rleFrString`). */
export function runsOf(text: string): number[] {
  const runs: number[] = [];
  for (let at = 0; at < text.length; ) {
    let value = 0;
    let bits = 0;
    let more = true;
    while (more && at < text.length) {
      const byte = text.charCodeAt(at++) - 48;
      value |= (byte & 31) << bits;
      more = (byte & 32) !== 0;
      bits += 5;
      if (!more && byte & 16 && bits < 32) value |= -1 << bits;
    }
    if (runs.length > 2) value += runs[runs.length - 2] as number;
    runs.push(value);
  }
  return runs;
}

/** What a mask covers as a path of one rectangle a run, in pixels of the picture; null for what is no mask. */
export function maskPath(region: RegionJson, size: Size): { path: string; bounds: Bounds } | null {
  const rle = region["rle"] as { size?: unknown; counts?: unknown } | undefined;
  if (!rle || !Array.isArray(rle.size)) return null;
  const [height, width] = rle.size as number[];
  if (height !== size.height || width !== size.width || !height) return null;
  const runs = typeof rle.counts === "string" ? runsOf(rle.counts) : rle.counts;
  if (!Array.isArray(runs) || !runs.every((run) => Number.isInteger(run) && run >= 0)) return null;
  const path: string[] = [];
  let [x1, y1, x2, y2] = [Infinity, Infinity, 0, 0];
  let at = 0;
  runs.forEach((run: number, index) => {
    const end = at + run;
    for (; index % 2 === 1 && at < end; ) {
      const [x, y] = [Math.floor(at / height), at % height];
      const long = Math.min(end - at, height - y);
      path.push(`M${x} ${y}h1v${long}h-1z`);
      [x1, y1, x2, y2] = [Math.min(x1, x), Math.min(y1, y), Math.max(x2, x + 1), Math.max(y2, y + long)];
      at += long;
    }
    at = end;
  });
  return path.length && at <= width * height ? { path: path.join(""), bounds: [x1, y1, x2, y2] } : null;
}
