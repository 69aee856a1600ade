import { describe, expect, it } from "vitest";
import {
  bounded,
  bounds,
  boxOf,
  hasExtent,
  inside,
  moved,
  MOST_POINTS,
  reshaped,
  resized,
  simplified,
  touches,
  type Shape,
  type Spot,
} from "../src/lib/geometry";
import { fromJson, toJson } from "../src/lib/regions";

const size = { width: 100, height: 60 };
const box: Shape = { kind: "box", box: [10, 20, 40, 50] };

describe("forms", () => {
  const forms: [unknown, Shape][] = [
    [{ point: [3, 4] }, { kind: "point", at: [3, 4] }],
    [{ box: [1, 2, 3, 4], label: "cup" }, { kind: "box", box: [1, 2, 3, 4] }],
    [{ xywh: [1, 2, 3, 4] }, { kind: "box", box: [1, 2, 4, 6] }],
    [
      { polygon: [[0, 0], [4, 0], [4, 4]] },
      { kind: "polygon", points: [[0, 0], [4, 0], [4, 4]] },
    ],
    [{ stroke: [[0, 0]], width: 9 }, { kind: "stroke", points: [[0, 0]], width: 9 }],
    [{ stroke: [[0, 0]] }, { kind: "stroke", points: [[0, 0]], width: 5 }],
  ];
  it.each(forms)("%j is read", (data, shape) => expect(fromJson(data)).toEqual(shape));

  const none = [null, 3, "box", {}, { box: [1, 2, 3] }, { box: [1, 2, 3, NaN] }, { box: "1234" }];
  it.each([...none, { polygon: [[0, 0], [1, 1]] }, { stroke: [] }, { point: ["1", "2"] }])(
    "%j is no shape",
    (data) => expect(fromJson(data)).toBeNull(),
  );

  it.each(forms.map(([, shape]) => shape))("%j comes back as it was written", (shape) =>
    expect(fromJson(toJson(shape, "a name"))).toEqual(shape),
  );

  it("is written to the hundredth of a pixel", () =>
    expect(toJson({ kind: "point", at: [1 / 3, 2 / 3] })).toEqual({ point: [0.33, 0.67] }));
});

describe("moving", () => {
  it("stops at the border and keeps its form", () =>
    expect(moved(box, 1000, -1000, size)).toEqual({ kind: "box", box: [70, 0, 100, 30] }));

  it("grows to the border, shrinks to a pixel", () => {
    expect(resized(box, 1000, 1000, size)).toEqual({ kind: "box", box: [10, 20, 100, 60] });
    expect(bounds(resized(box, -1000, -1000, size))).toEqual([10, 20, 11, 21]);
  });

  it("a corner dragged over the other turns the box round", () =>
    expect(reshaped(box, 0, [60, 55], size)).toEqual({ kind: "box", box: [40, 50, 60, 55] }));

  it("every corner leaves the one across where it was", () => {
    const across: Spot[] = [[40, 50], [10, 50], [10, 20], [40, 20]];
    across.forEach((corner, index) =>
      expect(reshaped(box, index, [25, 35], size)).toEqual({ kind: "box", box: boxOf(corner, [25, 35]) }),
    );
  });

  it("nothing leaves the picture", () => expect(inside([-5, 70], size)).toEqual([0, 60]));
});

describe("lines", () => {
  const circle = Array.from({ length: 20_000 }, (_, i): Spot => {
    const angle = (i / 20_000) * 2 * Math.PI;
    return [500 + 400 * Math.cos(angle), 500 + 400 * Math.sin(angle)];
  });

  it("keeps within the tolerance and the server's limit", () => {
    const kept = bounded(circle);
    expect(kept.length).toBeLessThanOrEqual(MOST_POINTS);
    expect(kept.length).toBeGreaterThan(20);
    const stroke: Shape = { kind: "stroke", points: kept, width: 0 };
    expect(circle.every((spot) => touches(stroke, spot, 0.51))).toBe(true);
  });

  it("a straight line is two points", () =>
    expect(simplified([[0, 0], [1, 1], [2, 2], [9, 9]], 0.5)).toEqual([[0, 0], [9, 9]]));

  it("a line of one place stays", () => expect(simplified([[1, 1]], 1)).toEqual([[1, 1]]));
});

describe("extent", () => {
  it.each<[Shape, boolean]>([
    [{ kind: "point", at: [0, 0] }, true],
    [{ kind: "box", box: [5, 5, 5, 9] }, false],
    [{ kind: "box", box: [5, 5, 6, 6] }, true],
    [{ kind: "polygon", points: [[0, 0], [5, 5]] }, false],
    [{ kind: "stroke", points: [[1, 1]], width: 3 }, true],
  ])("%j: %s", (shape, expected) => expect(hasExtent(shape)).toBe(expected));
});
