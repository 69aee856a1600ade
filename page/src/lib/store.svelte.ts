/** The one store: what is seen, and what a person can do with it. What it sends goes through `http.ts`. */

import * as tree from "./branches";
import { copied } from "./clipboard";
import { headOf } from "./compare";
import { Draft } from "./draft.svelte";
import { placesOf } from "./places";
import { Server } from "./server.svelte";
import { forget, keep, kept, remember, remembered } from "./storage";
import { texts } from "./texts";
import type { Answered, Conversation, Settings, Turn, Version } from "./types";

const STANDARD: Settings = {
  model: "",
  temperature: 0,
  top_p: 1,
  max_tokens: 0,
  seed: null,
  n: 1,
  system: "",
  regions_as: "",
};

export class Store {
  readonly server = new Server(() => this.#choose());
  conversations = $state<Conversation[]>([]);
  current = $state<Conversation>(tree.fresh());
  settings = $state<Settings>(remembered("settings", STANDARD));
  /** The other model, or the same with other settings, where two are asked side by side. */
  second = $state<Settings | null>(null);
  /** What is told for a moment, to eyes and to screen readers. */
  said = $state("");
  #silence = 0;
  #begun: Promise<void> = Promise.resolve();
  #writing = $state.raw<AbortController | null>(null);

  readonly turns = $derived(tree.branch(this.current));
  readonly draft = new Draft(() => this.turns, () => this.limits, () => this.#begun);
  readonly busy = $derived(this.#writing !== null);
  readonly facts = $derived(this.server.facts(this.settings.model));
  readonly limits = $derived(this.facts.limits);
  readonly chips = $derived(this.facts.chips);
  readonly ready = $derived(!this.busy && this.draft.says);
  readonly accept = $derived(
    this.limits.kinds.map((kind) => (kind === "document" ? ".pdf,.html,.htm,.txt,.md" : `${kind}/*`)).join(","),
  );

  async begin(): Promise<void> {
    this.#begun = this.server.begin();
    this.conversations = await kept();
    await this.#begun;
  }

  #choose(): void {
    const known = this.server.models.map((model) => model.id);
    if (!known.includes(this.settings.model)) this.settings.model = known[0] ?? "";
  }

  edit(turn: Turn): void {
    const words = $state.snapshot(turn) as Turn;
    this.current.leaf = turn.parent;
    this.draft.set(words);
  }

  say(text: string): void {
    this.said = text;
    clearTimeout(this.#silence);
    this.#silence = window.setTimeout(() => (this.said = ""), 5000);
  }

  // ---- asking

  async send(): Promise<void> {
    if (!this.ready) return;
    const { text, items, marks } = this.draft.words;
    const turn = tree.question(this.current.leaf, text, items, marks);
    this.#add(turn);
    this.current.title ||= tree.titled(text, items);
    this.draft.set();
    if (!this.conversations.some((one) => one.id === this.current.id)) this.conversations.unshift(this.current);
    await this.#answer(turn, tree.answer(turn.id));
  }

  async retry(reply: Turn): Promise<void> {
    const turn = reply.parent === null ? undefined : this.current.turns[reply.parent];
    if (!turn || this.busy) return;
    this.current.leaf = reply.id;
    await this.#answer(turn, reply);
  }

  /** The branch that is seen, and the question in the making behind it. */
  withDraft(): Turn[] {
    const turns = $state.snapshot(this.turns) as Turn[];
    if (!this.draft.says) return turns.at(-1)?.role === "user" ? turns : turns.slice(0, -1);
    const { text, items, marks } = this.draft.words;
    return [...turns, tree.question(this.current.leaf, text, items, marks)];
  }

  stop(): void {
    this.#writing?.abort();
  }

  async #answer(asked: Turn, reply: Turn): Promise<void> {
    if (!this.current.turns[reply.id]) this.#add(reply);
    const turn = this.current.turns[reply.id] as Turn;
    const controller = (this.#writing = new AbortController());
    const first = turn.versions.length;
    const asking = $state.snapshot([this.settings, ...(this.second ? [this.second] : [])]) as Settings[];
    const runs = asking.map((one, column) => {
      const settings = { ...one, n: this.settings.n };
      const head = headOf(settings, asking[1 - column] ?? null);
      const at = turn.versions.length;
      for (let i = 0; i < settings.n; i++) turn.versions.push(tree.version(head, column > 0));
      const versions = turn.versions.slice(at);
      return this.server.answer(tree.branch(this.current, asked.id), settings, versions, controller.signal);
    });
    turn.shown = first;
    await Promise.all(runs);
    this.#writing = null;
    this.say(texts.answerDone);
    await this.#keep();
  }

  #add(turn: Turn): void {
    this.current.turns[turn.id] = turn;
    this.current.leaf = turn.id;
  }

  compare(model: string): void {
    this.second = model ? { ...($state.snapshot(this.second ?? this.settings) as Settings), model } : null;
  }

  // ---- answers and branches

  siblings(turn: Turn): Turn[] {
    return tree.siblings(this.current, turn);
  }

  look(turn: Turn | undefined): void {
    if (turn && !this.busy) this.current.leaf = tree.leafOf(this.current, turn);
  }

  show(turn: Turn, index: number): void {
    turn.shown = index;
    void this.#keep();
  }

  /** Masks of what the question marks and the answer names; where they are seen, they go. */
  async segment(reply: Turn): Promise<void> {
    const version = reply.versions[reply.shown];
    if (!version) return;
    const places = version.masks ? [] : placesOf($state.snapshot(tree.branch(this.current, reply.id)) as Turn[]);
    delete version.error;
    if (!version.masks && !places.length) version.error = texts.noMasks;
    delete version.masks;
    if (!places.length) return;
    try {
      version.masks = await this.server.masks(places);
    } catch (error) {
      version.error = error instanceof Error ? error.message : String(error);
    }
    await this.#keep();
  }

  like(version: Version, liked: boolean): void {
    if (version.liked === liked) delete version.liked;
    else version.liked = liked;
    void this.#keep();
  }

  correct(version: Version, text: string, regions: Answered[]): void {
    version.regions = regions;
    if (text === version.text) delete version.corrected;
    else version.corrected = text;
    void this.#keep();
  }

  async copy(text: string): Promise<void> {
    this.say((await copied(text)) ? texts.copied : texts.notCopied);
  }

  // ---- conversations

  open(conversation: Conversation): void {
    this.stop();
    this.current = conversation;
    this.draft.set();
  }

  start(): void {
    this.open(tree.fresh());
  }

  async remove(conversation: Conversation): Promise<void> {
    this.conversations = this.conversations.filter((one) => one.id !== conversation.id);
    if (this.current.id === conversation.id) this.start();
    await forget(conversation.id);
  }

  async import(conversation: Conversation): Promise<void> {
    this.conversations = [conversation, ...this.conversations.filter((one) => one.id !== conversation.id)];
    this.open(this.conversations[0] as Conversation);
    await this.#keep();
  }

  set<K extends keyof Settings>(name: K, value: Settings[K]): void {
    this.settings[name] = value;
    remember("settings", $state.snapshot(this.settings));
  }

  async #keep(): Promise<void> {
    this.current.changed = Date.now();
    await keep($state.snapshot(this.current) as Conversation);
  }
}
