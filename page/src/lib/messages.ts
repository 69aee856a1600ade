/** A branch of a conversation in the words of `POST /v1/chat/completions`. */

import type { components } from "./api";
import { dataUrl } from "./files";
import { toJson } from "./regions";
import { pieces, type Piece } from "./pieces";
import type { Item, Settings, Turn } from "./types";

type Schemas = components["schemas"];
export type Message = Pick<Schemas["ChatMessage"], "role" | "content">;
export type Part = Exclude<NonNullable<Message["content"]>, string>[number];
/** The words of the server's own description (`make page`), those that the page uses. */
export type Body = Partial<Omit<Schemas["ChatBody"], "messages">> & { messages: Message[] };

async function part(piece: Piece, pictures: readonly string[]): Promise<Part> {
  if (piece.kind === "text") return { type: "text", text: piece.text };
  if (piece.kind === "mark") {
    const { shape, label, item } = piece.mark;
    return { type: "region", region: toJson(shape, label), on: pictures.indexOf(item) };
  }
  return itemPart(piece.item);
}

async function itemPart(item: Item): Promise<Part> {
  const url = await dataUrl(item.blob);
  switch (item.kind) {
    case "image":
      return { type: "image_url", image_url: { url } };
    case "audio":
      return { type: "audio_url", audio_url: { url } };
    case "video":
      return { type: "video_url", video_url: { url } };
    case "document":
      return { type: "file", file: { file_data: url, filename: item.name } };
  }
}

/** The pictures of a branch by their items' names; regions are counted on these. */
export function picturesOf(turns: readonly Turn[]): string[] {
  return turns.flatMap((turn) =>
    pieces(turn.text, turn.items, turn.marks).flatMap((piece) =>
      piece.kind === "item" && piece.item.kind === "image" ? [piece.item.id] : [],
    ),
  );
}

export async function messagesOf(turns: readonly Turn[], system: string): Promise<Message[]> {
  const pictures = picturesOf(turns);
  const messages: Message[] = system.trim() ? [{ role: "system", content: system }] : [];
  for (const turn of turns) {
    if (turn.role === "assistant") {
      const shown = turn.versions[turn.shown];
      const content = shown?.corrected ?? shown?.text ?? "";
      messages.push({ role: "assistant", content });
    } else {
      const parts = pieces(turn.text, turn.items, turn.marks).map((piece) => part(piece, pictures));
      messages.push({ role: "user", content: await Promise.all(parts) });
    }
  }
  return messages;
}

/** What is left at its standard is left out: the server's choice holds. */
export function bodyOf(messages: Message[], settings: Settings): Body {
  const { model, temperature, top_p, max_tokens, seed, n, regions_as } = settings;
  return {
    model,
    messages,
    temperature,
    ...(temperature > 0 && top_p < 1 && { top_p }),
    ...(max_tokens > 0 && { max_tokens }),
    ...(seed !== null && { seed }),
    ...(n > 1 && { n }),
    ...(regions_as && { regions_as }),
  };
}
