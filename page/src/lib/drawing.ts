/**
 * A drawing in the making, whatever the hand holds: a mouse, a pen, a finger, or the arrow keys. It knows pixels
 * of the original picture alone, so that no zoom can move a mark.
 */

import {
  bounded,
  boxOf,
  hasExtent,
  inside,
  type Kind,
  type Shape,
  type Size,
  type Spot,
} from "./geometry";

export type Tool = Kind | "move" | "erase";

export class Drawing {
  readonly kind: Kind;
  readonly size: Size;
  /** Pixels within which a click on the first point closes an outline. */
  readonly reach: number;
  readonly brush: number;
  #spots: Spot[] = [];
  #held: Spot | null = null;

  constructor(kind: Kind, size: Size, reach: number, brush: number) {
    this.kind = kind;
    this.size = size;
    this.reach = reach;
    this.brush = brush;
  }

  get begun(): boolean {
    return this.#spots.length > 0;
  }

  /** What is seen while it is drawn. */
  get shape(): Shape | null {
    const first = this.#spots[0];
    if (!first) return null;
    const last = this.#held ?? (this.#spots.at(-1) as Spot);
    switch (this.kind) {
      case "point":
        return { kind: "point", at: last };
      case "box":
        return { kind: "box", box: boxOf(first, last) };
      case "polygon":
        return { kind: "polygon", points: this.#held ? [...this.#spots, this.#held] : this.#spots };
      case "stroke":
        return { kind: "stroke", points: this.#spots, width: this.brush };
    }
  }

  /** The hand comes down; a finished shape where this ends one (an outline that is closed). */
  press(spot: Spot): Shape | null {
    const at = inside(spot, this.size);
    const first = this.#spots[0];
    if (this.kind === "polygon" && first && this.#spots.length >= 3 && this.#near(at, first)) {
      return this.finish();
    }
    if (this.kind === "polygon" || !first) this.#spots.push(at);
    this.#held = at;
    return null;
  }

  move(spot: Spot): void {
    if (!this.begun) return;
    const at = inside(spot, this.size);
    this.#held = at;
    if (this.kind === "stroke") this.#spots.push(at);
  }

  /** The hand goes up; outlines go on until they are closed. */
  release(spot: Spot): Shape | null {
    if (!this.begun) return null;
    this.move(spot);
    return this.kind === "polygon" ? null : this.finish();
  }

  /** What was drawn, or null where it was a slip of the hand; the next one can begin. */
  finish(): Shape | null {
    if (this.kind === "polygon") this.#held = null;
    const shape = this.shape;
    this.cancel();
    if (!shape || !hasExtent(shape)) return null;
    if (shape.kind === "stroke") return { ...shape, points: bounded(shape.points) };
    return shape.kind === "polygon" ? { ...shape, points: bounded(shape.points) } : shape;
  }

  /** One point of an outline back. */
  back(): void {
    this.#spots.pop();
    this.#held = null;
  }

  cancel(): void {
    this.#spots = [];
    this.#held = null;
  }

  #near(a: Spot, b: Spot): boolean {
    return Math.hypot(a[0] - b[0], a[1] - b[1]) <= this.reach;
  }
}

/** What part of a picture is seen, in its own pixels. */
export interface View {
  x: number;
  y: number;
  width: number;
  height: number;
}

export function whole(size: Size): View {
  return { x: 0, y: 0, width: size.width, height: size.height };
}

/** Nearer (factor above 1) or farther, the place `at` staying where it is on the screen. */
export function zoomed(view: View, size: Size, factor: number, at: Spot): View {
  // Sixteen screen pixels a picture's pixel are enough to hit each one.
  const width = Math.min(Math.max(view.width / factor, size.width / 64, 8), size.width);
  const scale = width / view.width;
  return panned(
    {
      x: at[0] - (at[0] - view.x) * scale,
      y: at[1] - (at[1] - view.y) * scale,
      width,
      height: view.height * scale,
    },
    size,
    0,
    0,
  );
}

export function panned(view: View, size: Size, dx: number, dy: number): View {
  const x = Math.min(Math.max(view.x + dx, 0), Math.max(size.width - view.width, 0));
  const y = Math.min(Math.max(view.y + dy, 0), Math.max(size.height - view.height, 0));
  return { ...view, x, y };
}

/** States to go back to and forward again. */
export class History<T> {
  #past: T[] = [];
  #future: T[] = [];
  readonly #most: number;

  constructor(most = 100) {
    this.#most = most;
  }

  did(before: T): void {
    this.#past.push(before);
    if (this.#past.length > this.#most) this.#past.shift();
    this.#future = [];
  }

  undo(now: T): T | undefined {
    const before = this.#past.pop();
    if (before !== undefined) this.#future.push(now);
    return before;
  }

  redo(now: T): T | undefined {
    const after = this.#future.pop();
    if (after !== undefined) this.#past.push(now);
    return after;
  }

  get canUndo(): boolean {
    return this.#past.length > 0;
  }

  get canRedo(): boolean {
    return this.#future.length > 0;
  }
}
