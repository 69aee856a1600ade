/** A conversation as a page that needs nothing else: no script, text escaped, marks drawn over the pictures. */

import { branch } from "./branches";
import { dataUrl } from "./files";
import type { Shape } from "./geometry";
import { maskPath } from "./masks";
import { limbs } from "./poses";
import { fromJson } from "./regions";
import type { Conversation, Item, Turn } from "./types";

const escaped = (text: string): string =>
  text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`).replace(/[\u202A-\u202E\u2066-\u2069]/g, "");

function drawn(shape: Shape): string {
  switch (shape.kind) {
    case "point":
      return `<circle class="s" cx="${shape.at[0]}" cy="${shape.at[1]}" r="4"/>`;
    case "box": {
      const [x1, y1, x2, y2] = shape.box;
      return `<rect class="s" x="${x1}" y="${y1}" width="${x2 - x1}" height="${y2 - y1}"/>`;
    }
    case "polygon":
      return `<polygon class="s" points="${shape.points.join(" ")}"/>`;
    case "stroke":
      return `<polyline class="b" stroke-width="${shape.width}" points="${shape.points.join(" ")}"/>`;
  }
}

async function picture(item: Item, turn: Turn, turns: readonly Turn[]): Promise<string> {
  const size = item.size ?? { width: 1, height: 1 };
  const marks = turn.marks.filter((mark) => mark.item === item.id).map((mark) => drawn(mark.shape));
  const found = turns.map((one) => [...(one.versions[one.shown]?.regions ?? []), ...(one.versions[one.shown]?.masks ?? [])]);
  const places = found.flat().filter((one) => one.item === item.id);
  const bones = found
    .flatMap((one) => limbs(one, item.id))
    .map(({ from, to }) => `<line class="s" x1="${from[0]}" y1="${from[1]}" x2="${to[0]}" y2="${to[1]}"/>`);
  const answers = places.map(({ region }) => {
    const shape = fromJson(region);
    const path = shape ? null : maskPath(region, size)?.path;
    return shape ? drawn(shape) : path ? `<path class="m" d="${path}"/>` : "";
  });
  const url = await dataUrl(item.blob);
  return (
    `<figure><svg viewBox="0 0 ${size.width} ${size.height}" role="img" aria-label="${escaped(item.name)}">` +
    `<image href="${url}" width="${size.width}" height="${size.height}"/>${marks.join("")}` +
    `<g class="a">${bones.join("")}${answers.join("")}</g></svg><figcaption>${escaped(item.name)}</figcaption></figure>`
  );
}

const STYLE =
  "body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}" +
  "svg{max-width:100%;max-height:28rem}p{white-space:pre-wrap;overflow-wrap:anywhere}.q{border-left:4px solid #0b57c4;padding-left:1rem}" +
  ".s{fill:#ffd23f33;stroke:#ffd23f;stroke-width:2;vector-effect:non-scaling-stroke}.b{fill:none;stroke:#ffd23fbb}" +
  ".a .s{fill:#5ac8fa33;stroke:#5ac8fa}.m{fill:#5ac8fa88}";

export async function pageOf(conversation: Conversation): Promise<string> {
  const turns = branch(conversation);
  const parts = await Promise.all(
    turns.map(async (turn) => {
      const figures = await Promise.all(
        turn.items.map((item) =>
          item.kind === "image" ? picture(item, turn, turns) : `<p>${escaped(item.name)}</p>`,
        ),
      );
      const version = turn.versions[turn.shown];
      const said = turn.role === "user" ? turn.text : (version?.corrected ?? version?.text ?? "");
      return `<section class="${turn.role === "user" ? "q" : "r"}">${figures.join("")}<p dir="auto">${escaped(said)}</p></section>`;
    }),
  );
  const title = escaped(conversation.title || "omnimix");
  return (
    `<!doctype html><html lang="en"><meta charset="utf-8">` +
    `<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">` +
    `<meta name="viewport" content="width=device-width"><title>${title}</title><style>${STYLE}</style>` +
    `<h1>${title}</h1>${parts.join("")}</html>`
  );
}
