import { expect, it } from "vitest";
import { pieces } from "../src/lib/pieces";
import type { Item, Mark } from "../src/lib/types";

const item = (id: string): Item => ({ id, kind: "image", name: id, type: "image/png", blob: new Blob() });
const mark = (number: number, on: string): Mark => ({
  number,
  item: on,
  shape: { kind: "point", at: [1, 1] },
  label: "",
});
const [a, b] = [item("a"), item("b")];

const told = (text: string, items: Item[], marks: Mark[]) =>
  pieces(text, items, marks)
    .map((p) => (p.kind === "text" ? p.text : p.kind === "item" ? `<${p.item.id}>` : `<#${p.mark.number}>`))
    .join("");

it.each([
  ["what?", [a], [], "<a>what?"],
  ["what is #1?", [a], [mark(1, "a")], "<a>what is <#1>?"],
  ["what?", [a], [mark(1, "a"), mark(2, "a")], "<a><#1><#2>what?"],
  ["what?", [a, b], [mark(1, "a"), mark(2, "b")], "<a><#1><b><#2>what?"],
  ["[item 2] and [item 1]?", [a, b], [mark(3, "b")], "<b><#3> and <a>?"],
  ["earlier: what?", [], [mark(4, "a")], "<#4>earlier: what?"],
  ["#4 or #5 or #4?", [], [mark(4, "a")], "<#4> or #5 or <#4>?"],
  ["see issue #12 [item 9]", [a], [], "<a>see issue #12 [item 9]"],
  ["[item 1] [item 1]", [a], [], "<a> [item 1]"],
])("%j", (text, items, marks, expected) => expect(told(text, items, marks)).toBe(expected));
