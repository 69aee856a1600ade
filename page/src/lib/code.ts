/** The present request, to be sent from elsewhere. Files stand as names, since their data would fill pages. */

import type { Body, Message } from "./messages";

function named(messages: readonly Message[]): Message[] {
  const short = (value: unknown): unknown => {
    if (typeof value === "string" && value.startsWith("data:")) return `${value.slice(0, value.indexOf(",") + 1)}...`;
    if (Array.isArray(value)) return value.map(short);
    if (typeof value !== "object" || value === null) return value;
    return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, short(inner)]));
  };
  return messages.map((message) => short(message) as Message);
}

const KEY = "$OMNIMIX_API_KEY";

export function curl(base: string, body: Body, key: boolean): string {
  const words = { ...body, messages: named(body.messages) };
  const json = JSON.stringify(words, null, 2).replaceAll("'", "'\\''");
  const auth = key ? ` \\\n  -H "Authorization: Bearer ${KEY}"` : "";
  return `curl ${base}v1/chat/completions \\\n  -H 'Content-Type: application/json'${auth} \\\n  -d '${json}'`;
}

/** JSON in Python's words. */
function python(value: unknown, deep = 1): string {
  const gap = "    ".repeat(deep);
  if (value === null || value === undefined) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const rows = Array.isArray(value)
    ? value.map((one) => python(one, deep + 1))
    : Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${python(one, deep + 1)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  if (!rows.length) return `${open}${close}`;
  const line = `${open}${rows.join(", ")}${close}`;
  return line.length <= 80 ? line : `${open}\n${gap}${rows.join(`,\n${gap}`)},\n${"    ".repeat(deep - 1)}${close}`;
}

/** Words that the `openai` package knows; others go through `extra_body`. */
const KNOWN = ["model", "messages", "temperature", "top_p", "max_tokens", "seed", "n"];

export function pythonCode(base: string, body: Body, key: boolean): string {
  const words = { ...body, messages: named(body.messages) };
  const known = Object.entries(words).filter(([name]) => KNOWN.includes(name));
  const extra = Object.fromEntries(Object.entries(words).filter(([name]) => !KNOWN.includes(name)));
  const lines = known.map(([name, value]) => `    ${name}=${python(value, 2)},`);
  if (Object.keys(extra).length) lines.push(`    extra_body=${python(extra, 2)},`);
  const secret = key ? 'os.environ["OMNIMIX_API_KEY"]' : '"none"';
  return [
    ...(key ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${base}v1", api_key=${secret})`,
    "answer = client.chat.completions.create(",
    ...lines,
    ")",
    "print(answer.choices[0].message.content)",
    "print(answer.choices[0].message.regions)",
    "",
  ].join("\n");
}
