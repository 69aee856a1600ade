/**
 * Places on a picture, always in pixels of the original picture: origin top left, x to the right, y down.
 * The server's `omnimix.regions` reads and writes the same forms.
 */

export type Spot = readonly [x: number, y: number];
export type Bounds = readonly [x1: number, y1: number, x2: number, y2: number];

export type Shape =
  | { kind: "point"; at: Spot }
  | { kind: "box"; box: Bounds }
  | { kind: "polygon"; points: readonly Spot[] }
  | { kind: "stroke"; points: readonly Spot[]; width: number };

export type Kind = Shape["kind"];

export interface Size {
  width: number;
  height: number;
}

/** The server takes at most this many points in an outline or a stroke. */
export const MOST_POINTS = 4096;

export function clamp(value: number, low: number, high: number): number {
  return Math.min(Math.max(value, low), Math.max(low, high));
}

/** The nearest place inside the picture; the last pixel's far edge counts for outlines. */
export function inside([x, y]: Spot, size: Size): Spot {
  return [clamp(x, 0, size.width), clamp(y, 0, size.height)];
}

export function boxOf(a: Spot, b: Spot): Bounds {
  return [
    Math.min(a[0], b[0]),
    Math.min(a[1], b[1]),
    Math.max(a[0], b[0]),
    Math.max(a[1], b[1]),
  ];
}

export function points(shape: Shape): readonly Spot[] {
  switch (shape.kind) {
    case "point":
      return [shape.at];
    case "box":
      return [
        [shape.box[0], shape.box[1]],
        [shape.box[2], shape.box[3]],
      ];
    default:
      return shape.points;
  }
}

export function bounds(shape: Shape): Bounds {
  const xs = points(shape).map((p) => p[0]);
  const ys = points(shape).map((p) => p[1]);
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

/** Whether there is anything to see: a box or an outline without extent is a slip of the hand. */
export function hasExtent(shape: Shape): boolean {
  const [x1, y1, x2, y2] = bounds(shape);
  switch (shape.kind) {
    case "box":
      return x2 - x1 >= 1 && y2 - y1 >= 1;
    case "polygon":
      return shape.points.length >= 3 && (x2 - x1 >= 1 || y2 - y1 >= 1);
    default:
      return points(shape).length > 0;
  }
}

function mapped(shape: Shape, change: (spot: Spot) => Spot): Shape {
  switch (shape.kind) {
    case "point":
      return { ...shape, at: change(shape.at) };
    case "box": {
      const [x1, y1, x2, y2] = shape.box;
      return { ...shape, box: boxOf(change([x1, y1]), change([x2, y2])) };
    }
    default:
      return { ...shape, points: shape.points.map(change) };
  }
}

/** Moved as far as the picture allows, in its own form. */
export function moved(shape: Shape, dx: number, dy: number, size: Size): Shape {
  const [x1, y1, x2, y2] = bounds(shape);
  const right = clamp(dx, -x1, size.width - x2);
  const down = clamp(dy, -y1, size.height - y2);
  return mapped(shape, ([x, y]) => [x + right, y + down]);
}

/** Grown from its left top corner so that the far corner moves by (dx, dy); never smaller than a pixel. */
export function resized(shape: Shape, dx: number, dy: number, size: Size): Shape {
  if (shape.kind === "point") return shape;
  const [x1, y1, x2, y2] = bounds(shape);
  const right = clamp(x2 + dx, x1 + 1, size.width);
  const bottom = clamp(y2 + dy, y1 + 1, size.height);
  const wide = x2 > x1 ? (right - x1) / (x2 - x1) : 1;
  const high = y2 > y1 ? (bottom - y1) / (y2 - y1) : 1;
  return mapped(shape, ([x, y]) => [x1 + (x - x1) * wide, y1 + (y - y1) * high]);
}

/** One corner of a box, or one point of an outline, somewhere else. */
export function reshaped(shape: Shape, index: number, to: Spot, size: Size): Shape {
  const at = inside(to, size);
  switch (shape.kind) {
    case "point":
      return { ...shape, at };
    case "box": {
      const [x1, y1, x2, y2] = shape.box;
      const left = index === 0 || index === 3;
      const top = index === 0 || index === 1;
      return { ...shape, box: boxOf(at, [left ? x2 : x1, top ? y2 : y1]) };
    }
    default:
      return { ...shape, points: shape.points.map((p, i) => (i === index ? at : p)) };
  }
}

/** The places that can be taken hold of: corners of a box (clockwise from the left top), points of an outline. */
export function handles(shape: Shape): readonly Spot[] {
  if (shape.kind === "box") {
    const [x1, y1, x2, y2] = shape.box;
    return [
      [x1, y1],
      [x2, y1],
      [x2, y2],
      [x1, y2],
    ];
  }
  return shape.kind === "polygon" ? shape.points : [];
}

function distance([px, py]: Spot, [ax, ay]: Spot, [bx, by]: Spot): number {
  const [dx, dy] = [bx - ax, by - ay];
  const long = dx * dx + dy * dy;
  const t = long === 0 ? 0 : clamp(((px - ax) * dx + (py - ay) * dy) / long, 0, 1);
  return Math.hypot(px - ax - t * dx, py - ay - t * dy);
}

/** Fewer points, none of the old ones farther than `tolerance` from the new line (Douglas and Peucker 1973). */
export function simplified(line: readonly Spot[], tolerance: number): Spot[] {
  if (line.length < 3) return [...line];
  const keep = new Set<number>([0, line.length - 1]);
  const open: [number, number][] = [[0, line.length - 1]];
  for (let next = open.pop(); next; next = open.pop()) {
    const [from, to] = next;
    let worst = tolerance;
    let at = -1;
    for (let i = from + 1; i < to; i++) {
      const off = distance(line[i] as Spot, line[from] as Spot, line[to] as Spot);
      if (off > worst) [worst, at] = [off, i];
    }
    if (at < 0) continue;
    keep.add(at);
    open.push([from, at], [at, to]);
  }
  return line.filter((_, i) => keep.has(i));
}

/** As many points as the server takes. */
export function bounded(line: readonly Spot[]): Spot[] {
  let tolerance = 0.5;
  let kept = simplified(line, tolerance);
  while (kept.length > MOST_POINTS) {
    tolerance *= 2;
    kept = simplified(line, tolerance);
  }
  return kept;
}

/** Whether a place lies on the shape, within `reach` pixels. */
export function touches(shape: Shape, spot: Spot, reach: number): boolean {
  const line = points(shape);
  if (shape.kind === "box" || shape.kind === "polygon") {
    const [x1, y1, x2, y2] = bounds(shape);
    return (
      spot[0] >= x1 - reach && spot[0] <= x2 + reach && spot[1] >= y1 - reach && spot[1] <= y2 + reach
    );
  }
  const near = reach + (shape.kind === "stroke" ? shape.width / 2 : 0);
  return line.some((p, i) => distance(spot, p, line[i + 1] ?? p) <= near);
}
