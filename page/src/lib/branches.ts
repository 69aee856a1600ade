/** A conversation is a tree of turns; what is seen is the way from its root to one leaf. */

import { newId } from "./ids";
import type { Conversation, Item, Mark, Turn, Version } from "./types";

export function fresh(): Conversation {
  return { id: newId(), title: "", changed: Date.now(), turns: {}, leaf: null };
}

/** The turns from the first to the leaf, or to another one. */
export function branch(conversation: Conversation, leaf = conversation.leaf): Turn[] {
  const turns: Turn[] = [];
  for (let at = leaf; at !== null; ) {
    const turn: Turn | undefined = conversation.turns[at];
    if (!turn) break;
    turns.unshift(turn);
    at = turn.parent;
  }
  return turns;
}

/** Turns that stand at the same place, the oldest first; the turn itself among them. */
export function siblings(conversation: Conversation, turn: Turn): Turn[] {
  return Object.values(conversation.turns).filter(
    (other) => other.parent === turn.parent && other.role === turn.role,
  );
}

/** The end of the newest branch through a turn. */
export function leafOf(conversation: Conversation, turn: Turn): string {
  let at = turn;
  for (;;) {
    const next = Object.values(conversation.turns).findLast((other) => other.parent === at.id);
    if (!next) return at.id;
    at = next;
  }
}

export function question(parent: string | null, text: string, items: Item[], marks: Mark[]): Turn {
  return { id: newId(), parent, role: "user", text, items, marks, versions: [], shown: 0 };
}

export function answer(parent: string): Turn {
  return { id: newId(), parent, role: "assistant", text: "", items: [], marks: [], versions: [], shown: 0 };
}

export function version(by: string, beside = false): Version {
  return { by, beside, text: "", regions: [], state: "writing" };
}

/** Every picture, sound ... of a branch, in the order in which they came. */
export function itemsOf(turns: readonly Turn[]): Item[] {
  return turns.flatMap((turn) => turn.items);
}

/** What is said of a conversation in a list. */
export function titled(text: string, items: readonly Item[]): string {
  const words = text.replace(/\s+/g, " ").trim();
  const title = words || (items[0]?.name ?? "");
  return title.length > 60 ? `${title.slice(0, 59)}…` : title;
}

/** The number of the next mark: no two of a conversation share one. */
export function nextNumber(turns: readonly Turn[], draft: readonly Mark[]): number {
  const numbers = [...turns.flatMap((turn) => turn.marks), ...draft].map((mark) => mark.number);
  return Math.max(0, ...numbers) + 1;
}
