/** A conversation as one JSON file, and back; what others wrote is read word by word. */

import { fresh } from "./branches";
import { blobOf, dataUrl } from "./files";
import { fromJson, toJson } from "./regions";
import { newId } from "./ids";
import type { Answered, Conversation, Item, Mark, MediaKind, Turn, Version } from "./types";

const FORM = "omnimix-conversation-1";
const MOST_BYTES = 200 * 2 ** 20;

type Words = Record<string, unknown>;

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
  typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Words) : refuse(`${what} is no table`);
const text = (value: unknown, what: string): string =>
  typeof value === "string" ? value : refuse(`${what} is no text`);
const list = (value: unknown, what: string): unknown[] =>
  Array.isArray(value) && value.length <= 10_000 ? value : refuse(`${what} is no list`);
const number = (value: unknown, what: string): number =>
  typeof value === "number" && Number.isFinite(value) ? value : refuse(`${what} is no number`);

function item(value: unknown): Item {
  const words = table(value, "an item");
  const kind = text(words["kind"], "an item's kind") as MediaKind;
  if (!["image", "audio", "video", "document"].includes(kind)) refuse(`unknown kind of item ${kind}`);
  const blob = blobOf(text(words["url"], "an item's url"));
  const read: Item = { id: text(words["id"], "an item's id"), kind, name: text(words["name"], "a name"), type: blob.type, blob };
  if (kind !== "image") return read;
  const size = table(words["size"], "a picture's size");
  return { ...read, size: { width: number(size["width"], "a width"), height: number(size["height"], "a height") } };
}

function mark(value: unknown): Mark {
  const words = table(value, "a mark");
  const region = table(words["region"], "a mark's region");
  const shape = fromJson(region) ?? refuse("a mark has no shape that this page draws");
  const label = typeof region["label"] === "string" ? region["label"] : "";
  return { number: number(words["number"], "a mark's number"), item: text(words["item"], "a mark's item"), shape, label };
}

function place(value: unknown): Answered {
  const words = table(value, "a place");
  return {
    region: table(words["region"], "a place's region"),
    item: words["item"] === null ? null : text(words["item"], "a place's item"),
    start: number(words["start"], "a place's start"),
    end: number(words["end"], "a place's end"),
    label: text(words["label"], "a place's label"),
  };
}

function version(value: unknown): Version {
  const words = table(value, "an answer");
  return {
    by: text(words["by"], "who answered"),
    beside: words["beside"] === true,
    text: text(words["text"], "an answer's text"),
    regions: list(words["regions"], "an answer's regions").map(place),
    state: words["state"] === "done" ? "done" : "stopped",
    ...(typeof words["corrected"] === "string" && { corrected: words["corrected"] }),
    ...(typeof words["liked"] === "boolean" && { liked: words["liked"] }),
  };
}

function turn(value: unknown): Turn {
  const words = table(value, "a turn");
  const role = words["role"] === "user" || words["role"] === "assistant" ? words["role"] : refuse("a turn has no role");
  const versions = list(words["versions"], "a turn's answers").map(version);
  return {
    id: text(words["id"], "a turn's id"),
    parent: words["parent"] === null ? null : text(words["parent"], "a turn's parent"),
    role,
    text: text(words["text"], "a question"),
    items: list(words["items"], "a turn's items").map(item),
    marks: list(words["marks"], "a turn's marks").map(mark),
    versions,
    shown: Math.min(Math.max(number(words["shown"], "the answer shown"), 0), Math.max(versions.length - 1, 0)),
  };
}

/** Raises an `Error` whose message says what is wrong. */
export async function opened(file: Blob): Promise<Conversation> {
  if (file.size > MOST_BYTES) refuse("it has more than 200 MB");
  let data: unknown;
  try {
    data = JSON.parse(await file.text());
  } catch {
    refuse("it is no JSON");
  }
  const words = table(data, "it");
  if (words["form"] !== FORM) refuse(`its form is not ${FORM}`);
  const turns = list(words["turns"], "its turns").map(turn);
  const known = Object.fromEntries(turns.map((one) => [one.id, one]));
  for (const one of turns) {
    const seen = new Set<string>();
    for (let at: string | null = one.id; at !== null; at = known[at]?.parent ?? null) {
      if (seen.has(at) || !known[at]) refuse("its turns make no tree");
      seen.add(at);
    }
  }
  const leaf = words["leaf"] === null ? null : text(words["leaf"], "its leaf");
  if (leaf !== null && !known[leaf]) refuse("its last turn is missing");
  return { ...fresh(), id: newId(), title: text(words["title"], "its title"), turns: known, leaf };
}
