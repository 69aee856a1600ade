/** A conversation as one JSON file, and back; what others wrote is read word by word. */

import { fresh } from "./branches";
import { blobOf, dataUrl } from "./files";
import { fromJson, toJson } from "./regions";
import { newId } from "./ids";
import { texts } from "./texts";
import type { Answered, Conversation, Item, Mark, MediaKind, Turn, Version } from "./types";

const FORM = "omnimix-conversation-1";
const MOST_BYTES = 200 * 2 ** 20;

type Words = Record<string, unknown>;
const wrong = texts.wrong;

export async function saved(conversation: Conversation): Promise<string> {
  const turns = await Promise.all(
    Object.values(conversation.turns).map(async (turn) => ({
      ...turn,
      items: await Promise.all(turn.items.map(async ({ blob, ...item }) => ({ ...item, url: await dataUrl(blob) }))),
      marks: turn.marks.map(({ shape, label, ...mark }) => ({ ...mark, region: toJson(shape, label) })),
    })),
  );
  const { title, leaf } = conversation;
  return JSON.stringify({ form: FORM, title, leaf, turns }, null, 1);
}

const refuse = (what: string): never => {
  throw new Error(what);
};
const table = (value: unknown, what: string): Words =>
  typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Words) : refuse(wrong.table(what));
const text = (value: unknown, what: string): string =>
  typeof value === "string" ? value : refuse(wrong.text(what));
const list = (value: unknown, what: string): unknown[] =>
  Array.isArray(value) && value.length <= 10_000 ? value : refuse(wrong.list(what));
const number = (value: unknown, what: string): number =>
  typeof value === "number" && Number.isFinite(value) ? value : refuse(wrong.number(what));

function item(value: unknown): Item {
  const words = table(value, "item");
  const kind = text(words["kind"], "item.kind") as MediaKind;
  if (!["image", "audio", "video", "document"].includes(kind)) refuse(wrong.kind(kind));
  const blob = blobOf(text(words["url"], "item.url"));
  const read: Item = { id: text(words["id"], "item.id"), kind, name: text(words["name"], "item.name"), type: blob.type, blob };
  if (kind !== "image") return read;
  const size = table(words["size"], "item.size");
  return { ...read, size: { width: number(size["width"], "item.size.width"), height: number(size["height"], "item.size.height") } };
}

function mark(value: unknown): Mark {
  const words = table(value, "mark");
  const region = table(words["region"], "mark.region");
  const shape = fromJson(region) ?? refuse(wrong.shape);
  const label = typeof region["label"] === "string" ? region["label"] : "";
  return { number: number(words["number"], "mark.number"), item: text(words["item"], "mark.item"), shape, label };
}

function place(value: unknown): Answered {
  const words = table(value, "region");
  return {
    region: table(words["region"], "region.region"),
    item: words["item"] === null ? null : text(words["item"], "region.item"),
    start: number(words["start"], "region.start"),
    end: number(words["end"], "region.end"),
    label: text(words["label"], "region.label"),
  };
}

function version(value: unknown): Version {
  const words = table(value, "answer");
  return {
    by: text(words["by"], "answer.by"),
    beside: words["beside"] === true,
    text: text(words["text"], "answer.text"),
    regions: list(words["regions"], "answer.regions").map(place),
    state: words["state"] === "done" ? "done" : "stopped",
    ...(typeof words["corrected"] === "string" && { corrected: words["corrected"] }),
    ...(typeof words["liked"] === "boolean" && { liked: words["liked"] }),
  };
}

function turn(value: unknown): Turn {
  const words = table(value, "turn");
  const role = words["role"] === "user" || words["role"] === "assistant" ? words["role"] : refuse(wrong.role);
  const versions = list(words["versions"], "turn.versions").map(version);
  return {
    id: text(words["id"], "turn.id"),
    parent: words["parent"] === null ? null : text(words["parent"], "turn.parent"),
    role,
    text: text(words["text"], "turn.text"),
    items: list(words["items"], "turn.items").map(item),
    marks: list(words["marks"], "turn.marks").map(mark),
    versions,
    shown: Math.min(Math.max(number(words["shown"], "turn.shown"), 0), Math.max(versions.length - 1, 0)),
  };
}

/** Raises an `Error` whose message says what is wrong. */
export async function opened(file: Blob): Promise<Conversation> {
  if (file.size > MOST_BYTES) refuse(wrong.size(MOST_BYTES / 2 ** 20));
  let data: unknown;
  try {
    data = JSON.parse(await file.text());
  } catch {
    refuse(wrong.json);
  }
  const words = table(data, wrong.it);
  if (words["form"] !== FORM) refuse(wrong.form(FORM));
  const turns = list(words["turns"], "turns").map(turn);
  const known = Object.fromEntries(turns.map((one) => [one.id, one]));
  for (const one of turns) {
    const seen = new Set<string>();
    for (let at: string | null = one.id; at !== null; at = known[at]?.parent ?? null) {
      if (seen.has(at) || !known[at]) refuse(wrong.tree);
      seen.add(at);
    }
  }
  const leaf = words["leaf"] === null ? null : text(words["leaf"], "leaf");
  if (leaf !== null && !known[leaf]) refuse(wrong.leaf);
  return { ...fresh(), id: newId(), title: text(words["title"], "title"), turns: known, leaf };
}
