/** What a conversation is made of. Everything here can be stored and exported as plain data, but for blobs. */

import type { Shape, Size } from "./geometry";
import type { RegionJson } from "./regions";

export type MediaKind = "image" | "audio" | "video" | "document";

/** A place somebody marked on a picture; `#2` in a question means the one with the number 2. */
export interface Mark {
  number: number;
  /** The picture. */
  item: string;
  shape: Shape;
  label: string;
}

export interface Item {
  id: string;
  kind: MediaKind;
  name: string;
  type: string;
  blob: Blob;
  /** Of pictures, as they are seen (turned as their EXIF says). */
  size?: Size;
}

/** A place in an answer: where, on which picture, and which words name it. */
export interface Answered {
  region: RegionJson;
  item: string | null;
  start: number;
  end: number;
  label: string;
  /** Of a mask: the place of the answer that it is of. */
  of?: number;
}

export interface Version {
  /** Which model, with what set apart. */
  by: string;
  /** Stands beside the one before it, to be compared. */
  beside: boolean;
  text: string;
  regions: Answered[];
  state: "writing" | "done" | "stopped" | "failed";
  error?: string;
  /** Tokens of the prompt and of the answer, where the server says so. */
  usage?: { prompt: number; answer: number };
  /** Masks of marks and answers, where somebody asked for them. */
  masks?: Answered[];
  corrected?: string;
  liked?: boolean;
}

export interface Turn {
  id: string;
  parent: string | null;
  role: "user" | "assistant";
  /** Of the person: text in which `#2` is a mark and `[picture 1]` an item; empty for an answer. */
  text: string;
  items: Item[];
  /** As they were when the question was asked; on its own pictures or on earlier ones. */
  marks: Mark[];
  /** Of the model: its answers, the chosen one first in view. */
  versions: Version[];
  shown: number;
}

export interface Settings {
  model: string;
  temperature: number;
  top_p: number;
  max_tokens: number;
  seed: number | null;
  n: number;
  system: string;
  /** How marks reach the model: its best way where empty. */
  regions_as: "" | "tokens" | "text" | "marks";
}

export interface Conversation {
  id: string;
  title: string;
  changed: number;
  turns: Record<string, Turn>;
  /** The last turn of the branch that is seen. */
  leaf: string | null;
}
