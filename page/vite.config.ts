import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vitest/config";

// Addresses are relative, so that the page works below a path prefix; nothing is inlined, so that the
// content security policy needs no exception.
export default defineConfig({
  base: "./",
  plugins: [svelte()],
  build: {
    outDir: "../src/omnimix/serve/page",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rollupOptions: {
      // Names without a hash: CI builds again and compares, and the server sends an ETag.
      output: {
        entryFileNames: "page.js",
        chunkFileNames: "[name].js",
        assetFileNames: "[name][extname]",
      },
    },
  },
  server: { proxy: { "/v1": "http://127.0.0.1:8000" } },
  test: { include: ["tests/**/*.test.ts"], environment: "jsdom" },
});
