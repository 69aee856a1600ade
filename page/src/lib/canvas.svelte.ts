/** One picture on the screen: what of it is seen, and what the hand is drawing on it. */

import { Drawing, History, panned, whole, zoomed, type Tool, type View } from "./drawing";
import { touches, type Shape, type Size, type Spot } from "./geometry";
import type { Mark } from "./types";

interface Asked {
  size: Size;
  marks: () => Mark[];
  /** A mark for a shape that was drawn; the conversation numbers them. */
  named: (shape: Shape) => Mark;
  /** What is told of new marks; null where the picture is only looked at. */
  onmarks: (() => (marks: Mark[]) => void) | null;
}

const WAYS: Record<string, Spot> = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
};

/** What the next picture begins with: what was drawn with last. */
let latest: Tool = "stroke";

export class Canvas {
  tool = $state<Tool>(latest);
  view = $state.raw<View>({ x: 0, y: 0, width: 1, height: 1 });
  drawn = $state.raw<Shape | null>(null);
  /** Where the keyboard's pen is. */
  cursor = $state.raw<Spot | null>(null);
  svg = $state<SVGSVGElement>();
  wide = $state(600);
  high = $state(400);
  canUndo = $state(false);
  canRedo = $state(false);
  readonly size: Size;
  /** Pixels of the picture that one pixel of the screen shows. */
  readonly unit = $derived(
    Math.max(this.view.width / Math.max(this.wide, 1), this.view.height / Math.max(this.high, 1)),
  );

  readonly #asked: Asked;
  readonly #history = new History<Mark[]>();
  /** Nothing is drawn from it, so nobody need watch it. */
  // eslint-disable-next-line svelte/prefer-svelte-reactivity
  readonly #fingers = new Map<number, Spot>();
  #drawing: Drawing | null = null;
  #hold: Spot | null = null;

  constructor(asked: Asked) {
    this.#asked = asked;
    this.size = asked.size;
    this.view = whole(asked.size);
    if (!asked.onmarks) this.tool = "move";
  }

  get #draws(): boolean {
    return this.#asked.onmarks !== null && this.tool !== "move";
  }

  /** Where on the picture, in its own pixels, whatever the zoom. */
  spot(event: { clientX: number; clientY: number }): Spot {
    const matrix = this.svg?.getScreenCTM()?.inverse();
    if (!matrix) return [0, 0];
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix);
    return [at.x, at.y];
  }

  change(marks: Mark[]): void {
    this.#history.did(this.#asked.marks());
    this.#tell(marks);
  }

  go(forward: boolean): void {
    const now = this.#asked.marks();
    const marks = forward ? this.#history.redo(now) : this.#history.undo(now);
    if (marks) this.#tell(marks);
  }

  /** A factor of 0 shows the whole picture. */
  zoom(factor: number): void {
    const { x, y, width, height } = this.view;
    this.view =
      factor === 0
        ? whole(this.size)
        : zoomed(this.view, this.size, factor, [x + width / 2, y + height / 2]);
  }

  choose(tool: Tool): void {
    this.leave();
    this.#drawing = null;
    this.tool = tool;
    if (this.#draws && tool !== "erase") latest = tool;
  }

  /** Leave off what is being drawn. */
  leave(): void {
    this.#drawing?.cancel();
    this.drawn = null;
  }

  down = (event: PointerEvent): void => {
    if (event.button > 0) return;
    this.svg?.setPointerCapture(event.pointerId);
    this.#fingers.set(event.pointerId, [event.clientX, event.clientY]);
    if (this.#fingers.size > 1) return this.leave();
    this.#hold = [event.clientX, event.clientY];
    this.#press(this.spot(event));
  };

  over = (event: PointerEvent): void => {
    const before = this.#fingers.get(event.pointerId);
    if (before && this.#fingers.size === 2) return this.#pinch(event, before);
    if (this.#drawing?.begun) {
      // A quick hand passes more places than there are events.
      for (const one of event.getCoalescedEvents?.() ?? []) this.#drawing.move(this.spot(one));
      this.#drawing.move(this.spot(event));
      this.drawn = this.#drawing.shape;
    } else if (before && this.#hold && !this.#draws) {
      const [x, y] = this.#hold;
      const [right, down] = [(x - event.clientX) * this.unit, (y - event.clientY) * this.unit];
      this.view = panned(this.view, this.size, right, down);
      this.#hold = [event.clientX, event.clientY];
    }
  };

  up = (event: PointerEvent): void => {
    const known = this.#fingers.delete(event.pointerId);
    this.#hold = null;
    if (known && this.#fingers.size === 0 && this.#drawing?.begun) {
      this.#add(this.#drawing.release(this.spot(event)));
    }
  };

  wheel = (event: WheelEvent): void => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    this.view = zoomed(this.view, this.size, Math.exp(-event.deltaY / 200), this.spot(event));
  };

  key = (event: KeyboardEvent): void => {
    if (event.target === this.svg && this.#typed(event)) event.preventDefault();
  };

  #tell(marks: Mark[]): void {
    this.canUndo = this.#history.canUndo;
    this.canRedo = this.#history.canRedo;
    this.#asked.onmarks?.()(marks);
  }

  #typed(event: KeyboardEvent): boolean {
    const way = WAYS[event.key];
    if (way) this.#walk(way, event.shiftKey ? 25 : 5);
    else if (event.key === "Enter" || event.key === " ") this.#enter();
    else if (event.key === "Escape") this.leave();
    else if (event.key === "Backspace" && this.#drawing?.begun) this.#drawing.back();
    else if (event.key === "+" || event.key === "-") this.zoom(event.key === "+" ? 1.5 : 1 / 1.5);
    else if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") this.go(event.shiftKey);
    else return false;
    if (this.#drawing?.begun) this.drawn = this.#drawing.shape;
    return true;
  }

  get #pen(): Spot {
    const { x, y, width, height } = this.view;
    return (this.cursor ??= [x + width / 2, y + height / 2]);
  }

  #walk(way: Spot, pixels: number): void {
    const [right, down] = [way[0] * pixels * this.unit, way[1] * pixels * this.unit];
    if (!this.#draws) {
      this.view = panned(this.view, this.size, right, down);
      return;
    }
    const [x, y] = this.#pen;
    const within = (value: number, most: number) => Math.min(Math.max(value, 0), most);
    this.cursor = [within(x + right, this.size.width), within(y + down, this.size.height)];
    this.#drawing?.move(this.cursor);
  }

  #enter(): void {
    const at = this.#pen;
    if (this.#drawing?.begun && this.tool !== "polygon") this.#add(this.#drawing.release(at));
    else {
      this.#press(at);
      if (this.tool === "point" && this.#drawing) this.#add(this.#drawing.release(at));
    }
  }

  #press(at: Spot): void {
    if (!this.#draws) return;
    if (this.tool === "erase") return this.#erase(at);
    if (this.#drawing?.kind !== this.tool) {
      const kind = this.tool as Exclude<Tool, "move" | "erase">;
      this.#drawing = new Drawing(kind, this.size, 10 * this.unit, Math.max(4 * this.unit, 1));
    }
    this.#add(this.#drawing.press(at));
  }

  #add(shape: Shape | null): void {
    this.drawn = this.#drawing?.shape ?? null;
    if (!shape) return;
    this.#drawing = null;
    this.drawn = null;
    this.change([...this.#asked.marks(), this.#asked.named(shape)]);
  }

  #erase(at: Spot): void {
    const marks = this.#asked.marks();
    const hit = marks.findLast((mark) => touches(mark.shape, at, 6 * this.unit));
    if (hit) this.change(marks.filter((mark) => mark !== hit));
  }

  #pinch(event: PointerEvent, before: Spot): void {
    const now: Spot = [event.clientX, event.clientY];
    const other = [...this.#fingers].find(([id]) => id !== event.pointerId)?.[1] as Spot;
    const apart = (a: Spot) => Math.max(Math.hypot(a[0] - other[0], a[1] - other[1]), 1);
    const middle = { clientX: (now[0] + other[0]) / 2, clientY: (now[1] + other[1]) / 2 };
    this.view = zoomed(this.view, this.size, apart(now) / apart(before), this.spot(middle));
    this.#fingers.set(event.pointerId, now);
  }
}
