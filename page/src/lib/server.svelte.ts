/** What is known of the server, and answers as they are written. */

import { chat, models, post, Refused, type Chunk, type Model, type PlacedRegion } from "./http";
import { bodyOf, messagesOf, picturesOf } from "./messages";
import { dataUrl } from "./files";
import { factsOf, type Facts } from "./facts";
import type { Place } from "./places";
import type { RegionJson } from "./regions";
import { remember, remembered } from "./storage";
import { texts } from "./texts";
import type { Answered, Settings, Turn, Version } from "./types";

/** Milliseconds between two looks for a server that went away. */
const AGAIN = 2000;

/** What `POST v1/prompt` says: a conversation as the model sees it. */
export interface PromptView {
  tokens: number;
  max_context: number;
  regions_as?: string | null;
  pieces: { kind: string; text: string; tokens: number; modality?: string }[];
}

export class Server {
  models = $state<Model[]>([]);
  state = $state<"unknown" | "there" | "away" | "locked">("unknown");
  key = $state(remembered("key", { key: "" }).key);
  readonly #known: () => void;

  /** `known` is called whenever the server has said which models it has. */
  constructor(known: () => void) {
    this.#known = known;
  }

  async begin(): Promise<void> {
    remember("key", { key: this.key });
    try {
      this.models = await models(this.key);
      this.state = "there";
      this.#known();
    } catch (error) {
      this.#failed(error);
    }
  }

  facts(model: string): Facts {
    return factsOf(this.models.find((one) => one.id === model));
  }

  /** Writes into the versions until all are done, stopped or failed; never throws. */
  async answer(turns: readonly Turn[], settings: Settings, versions: Version[], signal: AbortSignal): Promise<void> {
    try {
      const body = bodyOf(await messagesOf(turns, settings.system), settings);
      const pictures = picturesOf(turns);
      for await (const chunk of chat(this.key, body, signal)) take(chunk, versions, pictures);
      this.state = "there";
      settle(versions, "done");
    } catch (error) {
      if (signal.aborted) return settle(versions, "stopped");
      settle(versions, "failed", this.#failed(error));
    }
  }

  /** The prompt as the model sees it, or the sentence that says why not. */
  async prompt(turns: readonly Turn[], settings: Settings): Promise<PromptView | string> {
    try {
      const messages = await messagesOf(turns, settings.system);
      return await post<PromptView>("v1/prompt", this.key, bodyOf(messages, settings));
    } catch (error) {
      return this.#failed(error);
    }
  }

  /** Masks of places, picture by picture; those that the server cannot make are left out. */
  async masks(places: readonly Place[]): Promise<Answered[]> {
    const found: Answered[] = [];
    for (const item of places.map((place) => place.item).filter((one, at, all) => all.indexOf(one) === at)) {
      const own = places.filter((place) => place.item === item);
      const image = { url: await dataUrl(item.blob) };
      const body = { image, regions: own.map((place) => place.region) };
      const { masks } = await post<{ masks: RegionJson[] }>("v1/segment", this.key, body);
      masks.forEach((region, at) => {
        const { label = "", of } = own[at] ?? {};
        found.push({ region, item: item.id, start: 0, end: 0, label, ...(of !== undefined && { of }) });
      });
    }
    return found;
  }

  #failed(error: unknown): string {
    if (error instanceof Refused) {
      this.state = error.status === 401 || error.status === 403 ? "locked" : this.state;
      return error.message;
    }
    if (this.state !== "away") {
      this.state = "away";
      setTimeout(() => void this.#look(), AGAIN);
    }
    return texts.offline;
  }

  async #look(): Promise<void> {
    this.state = "unknown";
    await this.begin();
  }
}

function take(chunk: Chunk, versions: Version[], pictures: readonly string[]): void {
  for (const { index, delta } of chunk.choices ?? []) {
    const version = versions[index];
    if (!version || !delta) continue;
    version.text += delta.content ?? "";
    for (const region of delta.regions ?? []) put(version, placed(region, pictures));
  }
  if (chunk.usage) {
    const { prompt_tokens: prompt, completion_tokens: answer } = chunk.usage;
    for (const version of versions) version.usage = { prompt, answer };
  }
}

/** One that comes again under the same index has learned its name since. */
function put(version: Version, place: Answered): void {
  const at = version.regions.findIndex((one) => one.region["index"] === place.region["index"]);
  if (at < 0 || place.region["index"] === undefined) version.regions.push(place);
  else version.regions[at] = place;
}

function placed(region: PlacedRegion, pictures: readonly string[]): Answered {
  const { picture = 0, start = 0, end = 0, label = "" } = region;
  return { region, item: pictures[picture] ?? null, start, end, label };
}

function settle(versions: Version[], state: Version["state"], error?: string): void {
  for (const version of versions) {
    if (version.state !== "writing") continue;
    version.state = state;
    if (error) version.error = error;
  }
}
