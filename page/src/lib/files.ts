/** Files of a person, looked at before anything is sent. */

import { newId } from "./ids";
import { texts } from "./texts";
import type { Item, MediaKind } from "./types";

/** What the server takes, as its list of models says. */
export interface Limits {
  kinds: readonly MediaKind[];
  /** Of all files of a conversation together. */
  bytes: number;
  pixels: number;
  seconds: number;
  /** Files and marks of a conversation. */
  items: number;
}

const DOCUMENTS = /\.(pdf|html?|txt|md)$/i;

export function kindOf(file: { name: string; type: string }): MediaKind | null {
  const [top] = file.type.split("/");
  if (top === "image" || top === "audio" || top === "video") return top;
  if (file.type === "application/pdf" || top === "text" || DOCUMENTS.test(file.name)) return "document";
  return null;
}

export const megabytes = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MB`;

/** An item, or the sentence that says why it is none. */
export async function itemOf(file: File, limits: Limits): Promise<Item | string> {
  const kind = kindOf(file);
  if (!kind) return texts.refusedFile(file.name);
  if (!limits.kinds.includes(kind)) return texts.refusedKind(file.name, kind);
  if (file.size > limits.bytes) {
    return texts.refusedSize(file.name, megabytes(file.size), megabytes(limits.bytes));
  }
  const item: Item = { id: newId(), kind, name: file.name, type: file.type, blob: file };
  if (kind === "audio" || kind === "video") {
    const long = await secondsOf(file, kind);
    return long > limits.seconds
      ? texts.refusedSize(file.name, `${Math.round(long)} s`, `${limits.seconds} s`)
      : item;
  }
  if (kind !== "image") return item;
  const size = await sizeOf(file);
  if (!size) return texts.broken(file.name);
  const pixels = size.width * size.height;
  return pixels > limits.pixels
    ? texts.refusedSize(file.name, `${pixels.toLocaleString("en")} pixels`, `${limits.pixels.toLocaleString("en")} pixels`)
    : { ...item, size };
}

/** The size of a picture as it is seen, turned as its EXIF says. */
async function sizeOf(file: Blob): Promise<{ width: number; height: number } | null> {
  const url = URL.createObjectURL(file);
  try {
    const image = new Image();
    image.src = url;
    await image.decode();
    return { width: image.naturalWidth, height: image.naturalHeight };
  } catch {
    return null;
  } finally {
    URL.revokeObjectURL(url);
  }
}

/** 0 where the browser does not know: the server will. */
function secondsOf(file: Blob, kind: "audio" | "video"): Promise<number> {
  const url = URL.createObjectURL(file);
  return new Promise<number>((done) => {
    const medium = document.createElement(kind);
    medium.preload = "metadata";
    medium.onloadedmetadata = () => done(Number.isFinite(medium.duration) ? medium.duration : 0);
    medium.onerror = () => done(0);
    medium.src = url;
  }).finally(() => URL.revokeObjectURL(url));
}

export async function dataUrl(blob: Blob): Promise<string> {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result as string);
    reader.onerror = () => failed(reader.error ?? new Error("unreadable"));
    reader.readAsDataURL(blob);
  });
}

export function blobOf(url: string): Blob {
  const match = /^data:([\w.+-]+\/[\w.+-]+)?;base64,([A-Za-z0-9+/=]*)$/.exec(url);
  if (!match) throw new Error("no data URL");
  const bytes = Uint8Array.from(atob(match[2] ?? ""), (char) => char.charCodeAt(0));
  return new Blob([bytes], { type: match[1] ?? "" });
}
