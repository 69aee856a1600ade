import { expect, it } from "vitest";
import { limbs, ofBody } from "../src/lib/poses";
import type { Answered } from "../src/lib/types";

const place = (index: number, x: number, joined?: unknown, item = "p1"): Answered => ({
  region: { index, point: [x, 5], ...(joined !== undefined && { joined }) },
  item,
  start: 0,
  end: 0,
  label: "",
});

it("joins key points as the server says, on their own picture", () => {
  const places = [place(0, 1), place(1, 2, [0]), place(2, 3, [0, 1]), place(3, 9, [2], "p2")];
  expect(limbs(places, "p1").map(({ place: at, from, to }) => [at, from[0], to[0]])).toEqual([
    [1, 1, 2],
    [2, 1, 3],
    [2, 2, 3],
  ]);
  expect(limbs(places, "p2")).toEqual([]);
  expect(places.map((one) => ofBody(places, one))).toEqual([true, true, true, true]);
});

it("draws nothing for words that name no point", () => {
  const box: Answered = { ...place(1, 0), region: { index: 1, box: [1, 2, 3, 4], joined: [0] } };
  const places = [place(0, 1), box, place(2, 3, [7, "x", null, 1, 2.5]), place(3, 4, "0"), place(4, 5)];
  expect(limbs(places, "p1")).toEqual([]);
  expect(ofBody(places, place(4, 5))).toBe(false);
});
