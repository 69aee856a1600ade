import { expect, it } from "vitest";
import { maskPath, runsOf } from "../src/lib/masks";

it("reads what the server's run lengths say", () => {
  // From omnimix.regions: a box from (1, 1) to (3, 3) on a picture 4 wide and 5 high.
  expect(runsOf("62304")).toEqual([6, 2, 3, 2, 7]);
  const rle = { size: [5, 4], counts: "62304" };
  expect(maskPath({ rle }, { width: 4, height: 5 })).toEqual({
    path: "M1 1h1v2h-1zM2 1h1v2h-1z",
    bounds: [1, 1, 3, 3],
  });
});

it("a run goes on in the next column", () =>
  expect(maskPath({ rle: { size: [2, 2], counts: [1, 2, 1] } }, { width: 2, height: 2 })?.path).toBe(
    "M0 1h1v1h-1zM1 0h1v1h-1z",
  ));

it.each([{}, { rle: { size: [9, 9], counts: [1] } }, { rle: { size: [2, 2], counts: [0, 99] } }])(
  "%j is no mask of this picture",
  (region) => expect(maskPath(region, { width: 2, height: 2 })).toBeNull(),
);
