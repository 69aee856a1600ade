import svelte from "eslint-plugin-svelte";
import ts from "typescript-eslint";

export default ts.config(
  // Made from the server's description.
  { ignores: ["src/lib/api.d.ts"] },
  ...ts.configs.strict,
  ...svelte.configs.recommended,
  {
    files: ["**/*.svelte", "**/*.svelte.ts"],
    languageOptions: { parserOptions: { parser: ts.parser } },
  },
  {
    rules: {
      "max-lines": ["error", { max: 200, skipBlankLines: true, skipComments: true }],
      // Text of others never becomes markup.
      "svelte/no-at-html-tags": "error",
    },
  },
);
