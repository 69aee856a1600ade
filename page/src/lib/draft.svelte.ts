/** The question in the making. */

import * as tree from "./branches";
import type { Example } from "./facts";
import { itemOf, megabytes, type Limits } from "./files";
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
  readonly #limits: () => Limits;
  readonly #known: () => Promise<void>;

  /** `known` ends when the server was asked for its limits, so that no file is judged before. */
  constructor(turns: () => readonly Turn[], limits: () => Limits, known: () => Promise<void>) {
    this.#turns = turns;
    this.#limits = limits;
    this.#known = known;
  }

  async take(files: readonly File[]): Promise<void> {
    await this.#known();
    const limits = this.#limits();
    for (const file of files) {
      const item = this.#full(limits, 1) ?? (await itemOf(file, limits));
      const why = typeof item === "string" ? item : this.#heavy(item, limits);
      if (why !== null) this.refusals.push(why);
      else this.items.push(item as Item);
    }
  }

  /** A request holds the whole conversation, so that is what counts. */
  #full(limits: Limits, more: number): string | null {
    const turns = this.#turns();
    const marks = turns.reduce((sum, turn) => sum + turn.marks.length, this.marks.length);
    const count = tree.itemsOf(turns).length + this.items.length + marks + more;
    return count > limits.items ? texts.tooMany(limits.items) : null;
  }

  #heavy(item: Item, limits: Limits): string | null {
    const all = [...tree.itemsOf(this.#turns()), ...this.items, item];
    const bytes = all.reduce((sum, one) => sum + one.blob.size, 0);
    return bytes > limits.bytes ? texts.tooHeavy(item.name, megabytes(bytes), megabytes(limits.bytes)) : null;
  }

  async example(example: Example): Promise<void> {
    const blob = await (await fetch(example.url)).blob();
    await this.take([new File([blob], example.name || "example", { type: blob.type })]);
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
    const more = marks.length - this.marks.filter((mark) => mark.item === item.id).length;
    const full = more > 0 ? this.#full(this.#limits(), more) : null;
    if (full) this.refusals.push(full);
    else this.marks = [...this.marks.filter((mark) => mark.item !== item.id), ...marks];
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
