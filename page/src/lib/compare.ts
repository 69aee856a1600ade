/** Two answers side by side: what their heads say. */

import { texts } from "./texts";
import type { Settings } from "./types";

const SAID: { [K in keyof Settings]?: (value: Settings[K]) => string } = {
  temperature: (value) => `${texts.temperature} ${value}`,
  top_p: (value) => `${texts.topP} ${value}`,
  max_tokens: (value) => `${texts.length}: ${value || texts.byServer}`,
  seed: (value) => `${texts.seed} ${value ?? texts.seedNone}`,
  regions_as: (value) => `${texts.pointing} ${value || texts.pointingBest}`,
  system: (value) => `${texts.system}: ${value || texts.compareNone}`,
};

/** A model's name, with what sets it apart from the one beside it. */
export function headOf(settings: Settings, beside: Settings | null): string {
  const said = <K extends keyof Settings>(name: K): string =>
    beside && settings[name] !== beside[name] ? (SAID[name]?.(settings[name]) ?? "") : "";
  const apart = (Object.keys(SAID) as (keyof Settings)[]).map(said).filter(Boolean);
  return [settings.model, ...apart].join(" · ").slice(0, 200);
}
