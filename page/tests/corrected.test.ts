import { expect, it } from "vitest";
import { rewritten } from "../src/lib/corrected";

const size = { width: 400, height: 200 };

it.each([
  // Of the padded square, three decimals; a number in the name is none of the place's.
  ["<p>2 cups</p>[0.250, 0.500, 0.500, 0.625]", "<p>2 cups</p>[0.275, 0.550, 0.525, 0.675]"],
  // Of the picture, in thousandths; JSON in pixels; percent.
  ["<box>[[250, 500, 500, 750]]</box>", "<box>[[275, 600, 525, 850]]</box>"],
  ['{"bbox_2d": [100, 100, 200, 150], "label": "x"}', '{"bbox_2d": [110, 120, 210, 170], "label": "x"}'],
])("%s is written anew as it was", (text, wanted) =>
  expect(rewritten(text, [100, 100, 200, 150], [110, 120, 210, 170], size)).toBe(wanted),
);

it("knows the one that it is of several, and points", () => {
  const text = "[0.100, 0.350;0.250, 0.500]";
  expect(rewritten(text, [100, 100], [120, 100], size, 1, 2)).toBe("[0.100, 0.350;0.300, 0.500]");
});

it("leaves alone what is not plain", () => {
  expect(rewritten("a cup", [1, 2, 3, 4], [1, 2, 3, 5], size)).toBeNull();
  expect(rewritten("[7, 7, 7, 7]", [100, 100, 200, 150], [1, 2, 3, 4], size)).toBeNull();
});
