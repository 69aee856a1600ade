/** The question in the making. */

import * as tree from "./branches";
import type { Example } from "./facts";
import { itemOf, type Limits } from "./files";
import type { Shape } from "./geometry";
import { texts } from "./texts";
import type { Item, Mark, Turn } from "./types";

interface Words {
  text: string;
  items: Item[];
  marks: Mark[];
}

export class Draft {
  text = $state("");
  items = $state<Item[]>([]);
  /** Earlier pictures that are drawn on again. */
  again = $state<Item[]>([]);
  marks = $state<Mark[]>([]);
  /** Why files were not taken. */
  refusals = $state<string[]>([]);
  readonly canvases = $derived([...this.again, ...this.items]);
  readonly says = $derived(this.text.trim() !== "" || this.marks.length > 0);

  readonly #turns: () => readonly Turn[];

  constructor(turns: () => readonly Turn[]) {
    this.#turns = turns;
  }

  async take(files: readonly File[], limits: Limits): Promise<void> {
    for (const file of files) {
      const full = this.items.length >= limits.items;
      const item = full ? texts.tooMany(limits.items) : await itemOf(file, limits);
      if (typeof item === "string") this.refusals.push(item);
      else this.items.push(item);
    }
  }

  async example(example: Example, limits: Limits): Promise<void> {
    const blob = await (await fetch(example.url)).blob();
    await this.take([new File([blob], example.name || "example", { type: blob.type })], limits);
    this.text = example.question;
  }

  drop(item: Item): void {
    this.items = this.items.filter((one) => one.id !== item.id);
    this.again = this.again.filter((one) => one.id !== item.id);
    this.remark(item, []);
  }

  drawAgain(item: Item): void {
    if (!this.canvases.some((one) => one.id === item.id)) this.again.push(item);
  }

  named(item: Item, shape: Shape): Mark {
    return { number: tree.nextNumber(this.#turns(), this.marks), item: item.id, shape, label: "" };
  }

  remark(item: Item, marks: Mark[]): void {
    this.marks = [...this.marks.filter((mark) => mark.item !== item.id), ...marks];
  }

  /** Which picture, sound ... of the conversation it is, from 1. */
  numberOf(item: Item): number {
    const all = [...tree.itemsOf(this.#turns()), ...this.items];
    return all.findIndex((one) => one.id === item.id) + 1;
  }

  /** Plain data, without what the page watches. */
  get words(): Words {
    return $state.snapshot({ text: this.text.trim(), items: this.items, marks: this.marks }) as Words;
  }

  set({ text, items, marks }: Words = { text: "", items: [], marks: [] }): void {
    this.text = text;
    this.items = [...items];
    this.marks = [...marks];
    this.again = [];
    this.refusals = [];
  }
}
