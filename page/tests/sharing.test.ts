import { describe, expect, it } from "vitest";
import { answer, branch, fresh, leafOf, nextNumber, question, siblings, version } from "../src/lib/branches";
import { curl, pythonCode } from "../src/lib/code";
import { bodyOf, messagesOf, picturesOf } from "../src/lib/messages";
import { pageOf } from "../src/lib/pageFile";
import { rowsFile, rowsOf } from "../src/lib/rows";
import { opened, saved } from "../src/lib/saved";
import type { Conversation, Item, Mark, Settings } from "../src/lib/types";
import { linked, wordsOf } from "../src/lib/words";

const picture: Item = {
  id: "p1",
  kind: "image",
  name: 'a<b>"c".png',
  type: "image/png",
  blob: new Blob([new Uint8Array([1, 2, 3])], { type: "image/png" }),
  size: { width: 20, height: 10 },
};
const marks: Mark[] = [{ number: 1, item: "p1", shape: { kind: "box", box: [1, 2, 5, 8] }, label: "cup" }];

function talk(): Conversation {
  const conversation = fresh();
  const asked = question(null, "What is #1?", [picture], marks);
  const reply = answer(asked.id);
  const said = version("nano");
  Object.assign(said, { text: "A <script>cup</script>", state: "done", corrected: "A mug" });
  said.regions.push({ region: { box: [1, 2, 3, 4] }, item: "p1", start: 2, end: 5, label: "" });
  reply.versions.push(said);
  conversation.turns = { [asked.id]: asked, [reply.id]: reply };
  Object.assign(conversation, { leaf: reply.id, title: "What is #1?" });
  return conversation;
}

const settings: Settings = {
  model: "nano",
  temperature: 0,
  top_p: 0.5,
  max_tokens: 0,
  seed: 7,
  n: 1,
  system: "Be short.",
  regions_as: "marks",
};

describe("the request", () => {
  it("has every part where it stands", async () => {
    const turns = branch(talk());
    expect(picturesOf(turns)).toEqual(["p1"]);
    expect(await messagesOf(turns, settings.system)).toEqual([
      { role: "system", content: "Be short." },
      {
        role: "user",
        content: [
          { type: "image_url", image_url: { url: "data:image/png;base64,AQID" } },
          { type: "text", text: "What is " },
          { type: "region", region: { box: [1, 2, 5, 8], label: "cup" }, on: 0 },
          { type: "text", text: "?" },
        ],
      },
      { role: "assistant", content: "A mug" },
    ]);
  });

  it("leaves out what is left to the server", () =>
    expect(bodyOf([], settings)).toEqual({
      model: "nano",
      messages: [],
      temperature: 0,
      seed: 7,
      regions_as: "marks",
    }));

  it("is told as curl and in Python without a picture's megabytes", async () => {
    const body = bodyOf(await messagesOf(branch(talk()), "it's"), settings);
    expect(curl("http://x/", body, true)).toContain("it'\\''s");
    expect(curl("http://x/", body, true)).toContain("data:image/png;base64,...");
    const code = pythonCode("http://x/", body, false);
    expect(code).toContain('extra_body={"regions_as": "marks"}');
    expect(code).not.toContain("null");
  });
});

describe("a saved conversation", () => {
  it("comes back as it was", async () => {
    const before = talk();
    const after = await opened(new Blob([await saved(before)]));
    expect(after).toMatchObject({ title: before.title, leaf: before.leaf });
    const [asked, reply] = branch(after);
    expect(asked).toMatchObject({ text: "What is #1?", marks });
    expect(asked?.items[0]).toMatchObject({ id: "p1", size: { width: 20, height: 10 } });
    expect(new Uint8Array((await asked?.items[0]?.blob.arrayBuffer()) as ArrayBuffer)).toEqual(
      new Uint8Array([1, 2, 3]),
    );
    expect(reply?.versions).toEqual(branch(before)[1]?.versions);
  });

  const broken: [string, string][] = [
    ["no JSON", "it is no JSON"],
    ["[]", "it is no table"],
    ['{"form": "x"}', "its form is not"],
    ['{"form": "omnimix-conversation-1"}', "turns is no list"],
  ];
  it.each(broken)("%s is refused", async (text, why) =>
    expect(opened(new Blob([text]))).rejects.toThrow(why),
  );

  it("whose turns go in a circle is refused", async () => {
    const data = JSON.parse(await saved(talk())) as { turns: { id: string; parent: string | null }[] };
    const [first, second] = data.turns;
    if (first && second) first.parent = second.id;
    await expect(opened(new Blob([JSON.stringify(data)]))).rejects.toThrow("make no tree");
  });

  it("may not smuggle an address in the place of a file", async () => {
    const text = (await saved(talk())).replace("data:image/png;base64,AQID", "https://example.com/x.png");
    await expect(opened(new Blob([text]))).rejects.toThrow("no data URL");
  });
});

it("a page of its own holds no markup of others", async () => {
  const page = await pageOf(talk());
  expect(page).toContain("A mug");
  expect(page).toContain("&#60;b&#62;");
  expect(page).not.toMatch(/<script|<b>|https?:/);
});

describe("training rows", () => {
  it("LLaVA", () =>
    expect(rowsOf([talk()], "llava").rows).toEqual([
      {
        id: expect.any(String) as string,
        image: "images/p1.png",
        conversations: [
          { from: "human", value: "<image>\nWhat is [1, 2, 5, 8]?" },
          { from: "gpt", value: "A mug" },
        ],
      },
    ]));

  it("MDVP", () =>
    expect(rowsOf([talk()], "mdvp").rows).toMatchObject([
      {
        image: "images/p1.png",
        bbox: [[1, 2, 4, 6]],
        conversations: [{ value: "<image>\nWhat is <Region 1>?" }, { value: "A mug" }],
      },
    ]));

  it("a question without an answer is no row", () => {
    const conversation = talk();
    conversation.leaf = branch(conversation)[0]?.id ?? null;
    expect(rowsOf([conversation], "llava").rows).toEqual([]);
  });

  it("travel in a tar", async () => {
    const bytes = new Uint8Array(await (await rowsFile([talk()], "mdvp")).arrayBuffer());
    expect(bytes.length % 512).toBe(0);
    expect(new TextDecoder().decode(bytes.slice(257, 262))).toBe("ustar");
  });
});

describe("branches", () => {
  it("another wording stands beside the first", () => {
    const conversation = talk();
    const [asked] = branch(conversation);
    const other = question(null, "Who?", [], []);
    conversation.turns[other.id] = other;
    expect(siblings(conversation, other).map((turn) => turn.text)).toEqual(["What is #1?", "Who?"]);
    if (asked) expect(leafOf(conversation, asked)).toBe(conversation.leaf);
    expect(nextNumber(branch(conversation), [])).toBe(2);
  });
});

it("places count characters, not halves of them", () => {
  const text = linked("😀 a cup", [{ region: {}, item: null, start: 4, end: 7, label: "" }]);
  expect(wordsOf(text).at(-1)).toEqual({ text: "cup", place: 0 });
});

it("words that name a place are found again", () => {
  const text = linked("A red cup stands there.", [
    { region: {}, item: null, start: 2, end: 9, label: "" },
    { region: {}, item: null, start: 5, end: 6, label: "inside the first" },
  ]);
  expect(wordsOf(text)).toEqual([
    { text: "A ", place: null },
    { text: "red cup", place: 0 },
    { text: " stands there.", place: null },
  ]);
});

it("what conventions write around a place is left out of its words", () => {
  const said = (text: string, label = "") =>
    wordsOf(linked(text, [{ region: {}, item: null, start: 0, end: text.length, label }]))[0]?.text;
  expect(said("<p>a cat</p>[0.1, 0.2]", "a cat")).toBe("a cat[0.1, 0.2]");
  expect(said('<point x="1" y="2" alt="cup">cup</point>', "cup")).toBe("cup");
  expect(said("<object><patch_index_0044></object>", "roof")).toBe("roof");
  expect(said("<loc_1><loc_2>")).toBe("▢");
  expect(said("[0.1, 0.2]")).toBe("[0.1, 0.2]");
});
