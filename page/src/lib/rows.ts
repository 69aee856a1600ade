/** Conversations as training rows, corrections in the place of what was corrected. */

import { branch } from "./branches";
import { bounds, type Shape } from "./geometry";
import { pieces } from "./pieces";
import { fileName, tar } from "./tar";
import type { Conversation, Item, Mark, Turn } from "./types";

export type Form = "llava" | "mdvp";
type Row = Record<string, unknown>;

const whole = (value: number): number => Math.round(value * 100) / 100;

const shown = (turn: Turn): string => {
  const version = turn.versions[turn.shown];
  return version?.corrected ?? version?.text ?? "";
};

/** A mark in words: pixels of the picture, so that a row keeps what was asked about. */
const said = (shape: Shape): string => `[${bounds(shape).map(whole).join(", ")}]`;

function llava(turns: readonly Turn[], id: string): Row[] {
  const items = turns.flatMap((turn) => turn.items.filter((item) => item.kind === "image"));
  const conversations = turns.map((turn) => {
    if (turn.role === "assistant") return { from: "gpt", value: shown(turn) };
    const value = pieces(turn.text, turn.items, turn.marks).map((piece) => {
      if (piece.kind === "text") return piece.text;
      if (piece.kind === "mark") return said(piece.mark.shape);
      return piece.item.kind === "image" ? "<image>\n" : "";
    });
    return { from: "human", value: value.join("") };
  });
  const names = items.map((item) => fileName(item.id, item.type));
  const image = names.length > 1 ? { image: names } : names[0] ? { image: names[0] } : {};
  return [{ id, ...image, conversations }];
}

/** MDVP's rows have one picture and marks of one kind; region k is what the text calls the k-th. */
function mdvp(turns: readonly Turn[], id: string): Row[] {
  const known = turns.flatMap((turn) => turn.items);
  return turns.flatMap((turn, at): Row[] => {
    const reply = turns[at + 1];
    const on = new Set(turn.marks.map((mark) => mark.item));
    const item = known.find((one) => on.has(one.id));
    if (turn.role !== "user" || reply?.role !== "assistant" || !item || on.size !== 1) return [];
    const points = turn.marks.every((mark) => mark.shape.kind === "point");
    const word = points ? "Mark" : "Region";
    const number = (mark: Mark) => turn.marks.indexOf(mark) + 1;
    const text = pieces(turn.text, [], turn.marks)
      .map((p) => (p.kind === "text" ? p.text : p.kind === "mark" ? `<${word} ${number(p.mark)}>` : ""))
      .join("");
    const marks = turn.marks.map((mark) => {
      const [x1, y1, x2, y2] = bounds(mark.shape).map(whole) as [number, number, number, number];
      return points ? [x1, y1] : [x1, y1, whole(x2 - x1), whole(y2 - y1)];
    });
    return [
      {
        id: `${id}-${at}`,
        image: fileName(item.id, item.type),
        [points ? "points" : "bbox"]: marks,
        conversations: [
          { from: "human", value: `<image>\n${text}` },
          { from: "gpt", value: shown(reply) },
        ],
      },
    ];
  });
}

export function rowsOf(conversations: readonly Conversation[], form: Form): { rows: Row[]; items: Item[] } {
  const made = conversations.map((conversation) => {
    const turns = branch(conversation);
    // A question without an answer teaches nothing.
    if (turns.at(-1)?.role === "user") turns.pop();
    return { turns, rows: turns.length ? (form === "llava" ? llava : mdvp)(turns, conversation.id) : [] };
  });
  const used = made.filter(({ rows }) => rows.length > 0);
  const items = used.flatMap(({ turns }) => turns.flatMap((turn) => turn.items));
  return { rows: used.flatMap(({ rows }) => rows), items: items.filter((item) => item.kind === "image") };
}

/** `rows.json` beside its pictures; for MDVP the list that names it as well. */
export async function rowsFile(conversations: readonly Conversation[], form: Form): Promise<Blob> {
  const { rows, items } = rowsOf(conversations, form);
  const files: [string, Blob][] = [["rows.json", new Blob([JSON.stringify(rows, null, 1)])]];
  if (form === "mdvp") files.push(["rows.yaml", new Blob(["META:\n- {path: rows.json, type: image}\n"])]);
  const pictures = new Map(items.map((item) => [fileName(item.id, item.type), item.blob]));
  return tar([...files, ...pictures]);
}
