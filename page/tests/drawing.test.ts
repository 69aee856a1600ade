import { describe, expect, it } from "vitest";
import { Drawing, History, panned, whole, zoomed } from "../src/lib/drawing";
import { type Spot } from "../src/lib/geometry";

const size = { width: 200, height: 100 };
const drag = (kind: "point" | "box" | "stroke", ...spots: Spot[]) => {
  const drawing = new Drawing(kind, size, 4, 7);
  drawing.press(spots[0] as Spot);
  spots.slice(1, -1).forEach((spot) => drawing.move(spot));
  return drawing.release(spots.at(-1) as Spot);
};

describe("by hand", () => {
  it("a point is where the hand goes up", () =>
    expect(drag("point", [3, 4], [5, 6])).toEqual({ kind: "point", at: [5, 6] }));

  it("a box goes either way", () =>
    expect(drag("box", [50, 60], [10, 20])).toEqual({ kind: "box", box: [10, 20, 50, 60] }));

  it("a click makes no box", () => expect(drag("box", [50, 60], [50, 60])).toBeNull());

  it("a stroke goes through what the hand passed, within the picture", () =>
    expect(drag("stroke", [0, 0], [50, 50], [300, -20])).toEqual({
      kind: "stroke",
      points: [[0, 0], [50, 50], [200, 0]],
      width: 7,
    }));
});

describe("an outline", () => {
  const three = () => {
    const drawing = new Drawing("polygon", size, 4, 7);
    for (const spot of [[0, 0], [50, 0], [50, 50]] as Spot[]) {
      expect(drawing.press(spot)).toBeNull();
      expect(drawing.release(spot)).toBeNull();
    }
    return drawing;
  };

  it("closes near its first point", () =>
    expect(three().press([2, 2])).toEqual({ kind: "polygon", points: [[0, 0], [50, 0], [50, 50]] }));

  it("finishes when told to, without the place that the hand is over", () => {
    const drawing = three();
    drawing.move([70, 70]);
    expect(drawing.shape).toMatchObject({ points: { length: 4 } });
    expect(drawing.finish()).toMatchObject({ points: { length: 3 } });
    expect(drawing.begun).toBe(false);
  });

  it("takes a point back, and is none with two", () => {
    const drawing = three();
    drawing.back();
    expect(drawing.finish()).toBeNull();
  });
});

describe("the view", () => {
  it("keeps the place under the hand", () => {
    const near = zoomed(whole(size), size, 4, [50, 25]);
    expect(near).toEqual({ x: 37.5, y: 18.75, width: 50, height: 25 });
    expect(zoomed(near, size, 1 / 4, [50, 25])).toEqual(whole(size));
  });

  it("never leaves the picture", () =>
    expect(panned(zoomed(whole(size), size, 2, [0, 0]), size, 999, 999)).toMatchObject({ x: 100, y: 50 }));
});

describe("history", () => {
  it("goes back and forward, and forgets what was undone when something new is done", () => {
    const history = new History<number>();
    history.did(0);
    history.did(1);
    expect(history.undo(2)).toBe(1);
    expect(history.undo(1)).toBe(0);
    expect(history.undo(0)).toBeUndefined();
    expect(history.redo(0)).toBe(1);
    history.did(1);
    expect(history.canRedo).toBe(false);
  });
});
