/** What a server says of a model, read with care: it may be any OpenAI server, or an older one of ours. */

import type { Limits } from "./files";
import type { Model } from "./http";
import { texts } from "./texts";
import type { MediaKind } from "./types";

export interface Example {
  url: string;
  name: string;
  question: string;
}

/** A ready question. Words in braces are to be filled in; `takes` are kinds of marks, one of which it is about. */
export interface Chip {
  name: string;
  text: string;
  takes: string[];
}

export interface Facts {
  limits: Limits & { characters: number };
  chips: Chip[];
  examples: Example[];
  /** Most tokens of an answer, and of everything together. */
  maxTokens: number;
  context: number;
  /** Kinds of marks that the model understands; none said, none known. */
  regions: string[];
  /** How marks reach the model where nobody chooses. */
  pointing: string;
  /** Whether the server makes masks of marks. */
  segments: boolean;
  /** Whether the model's style has a system prompt. */
  system: boolean;
  about: [string, string][];
}

/** Shipped with the page. */
const EXAMPLES: Example[] = [{ url: "./example.png", name: "example.png", question: texts.exampleQuestion }];

const KINDS: readonly MediaKind[] = ["image", "audio", "video", "document"];
const ABOUT = ["about", "family", "licence", "max_context", "max_tokens"];
type Words = Record<string, unknown>;

const table = (value: unknown): Words => (typeof value === "object" && value !== null ? (value as Words) : {});
const number = (value: unknown, otherwise: number): number =>
  typeof value === "number" && Number.isFinite(value) && value > 0 ? value : otherwise;
const rows = (value: unknown): Words[] => (Array.isArray(value) ? value.map(table) : []);
const strings = (value: unknown): string[] => (Array.isArray(value) ? value.filter((v) => typeof v === "string") : []);
const text = (value: unknown): string => (typeof value === "string" ? value : "");

/** Files travel as base64, four bytes for three, and words need room beside them. */
const filesIn = (body: number): number => Math.floor(Math.max(body - 2 ** 17, body / 2) * 0.75);

export function factsOf(model: Model | undefined): Facts {
  const words = table(model);
  const limits = table(words["limits"]);
  const taken = new Map(rows(words["modalities"]).map((row) => [text(row["kind"]), table(row["limits"])]));
  const images = taken.get("image") ?? {};
  const seconds = Math.min(...["audio", "video"].map((kind) => number(taken.get(kind)?.["max_seconds"], 3600)));
  return {
    limits: {
      kinds: KINDS.filter((kind) => taken.size === 0 || taken.has(kind)),
      bytes: filesIn(number(limits["max_bytes"], 64 * 2 ** 20)),
      pixels: number(images["max_pixels"], 100e6),
      seconds,
      items: number(limits["max_items"], 16),
      characters: number(limits["max_characters"], 100_000),
    },
    chips: rows(words["chips"]).map((row) => ({
      name: text(row["name"]),
      text: text(row["text"]),
      takes: strings(row["takes"]),
    })),
    examples: taken.size === 0 || taken.has("image") ? EXAMPLES : [],
    maxTokens: number(words["max_tokens"], 1024),
    context: number(words["max_context"], 0),
    regions: strings(table(words["regions"])["accepted"]),
    pointing: text(table(words["regions"])["as"]),
    segments: words["segment"] === true,
    system: words["system"] !== false,
    about: Object.entries(words).flatMap(([name, value]): [string, string][] =>
      ABOUT.includes(name) && (typeof value === "string" || typeof value === "number")
        ? [[name, String(value)]]
        : [],
    ),
  };
}
