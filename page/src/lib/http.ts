/** The one module that speaks HTTP. Addresses are relative: the page works below any prefix. */

import { events } from "./sse";
import type { RegionJson } from "./regions";
import { texts } from "./texts";

export class Refused extends Error {
  readonly status: number;
  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/** What `GET v1/models` says of a model; what a server leaves out is not known. */
export interface Model {
  id: string;
  [word: string]: unknown;
}

export interface PlacedRegion extends RegionJson {
  picture?: number;
  start?: number;
  end?: number;
  label?: string;
}

export interface Chunk {
  choices?: {
    index: number;
    delta?: { content?: string; regions?: PlacedRegion[] };
    finish_reason?: string | null;
  }[];
  usage?: { prompt_tokens: number; completion_tokens: number };
  error?: { message: string };
}

function headers(key: string): Record<string, string> {
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
}

/** The server's sentence, whatever went wrong. */
async function sentence(response: Response): Promise<string> {
  const text = await response.text().catch(() => "");
  try {
    const said = (JSON.parse(text) as { error?: { message?: unknown } }).error?.message;
    if (typeof said === "string") return said;
  } catch {
    // No JSON: a proxy's page, whose status says enough.
  }
  return texts.failed(`${response.status} ${response.statusText}`.trim());
}

async function asked(path: string, key: string, init: RequestInit = {}): Promise<Response> {
  const response = await fetch(path, { ...init, headers: headers(key), credentials: "omit" });
  if (!response.ok) throw new Refused(response.status, await sentence(response));
  return response;
}

export async function models(key: string): Promise<Model[]> {
  const response = await asked("v1/models", key);
  return ((await response.json()) as { data: Model[] }).data;
}

export async function post<T>(path: string, key: string, body: unknown, signal?: AbortSignal): Promise<T> {
  const init = { method: "POST", body: JSON.stringify(body), ...(signal && { signal }) };
  return (await (await asked(path, key, init)).json()) as T;
}

export async function* chat(key: string, body: object, signal: AbortSignal): AsyncGenerator<Chunk> {
  const words = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await asked("v1/chat/completions", key, {
    method: "POST",
    body: JSON.stringify(words),
    signal,
  });
  if (!response.body) return;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data) as Chunk;
    if (chunk.error) throw new Refused(200, chunk.error.message);
    yield chunk;
  }
  throw new Refused(200, texts.cut);
}
