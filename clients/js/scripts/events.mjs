// Writes src/events.ts, or with --print what would be in it, from the schema of the server's events.

import { readFile, writeFile } from "node:fs/promises";

const SCHEMA = new URL("../../../docs/events.schema.json", import.meta.url);
const TYPES = new URL("../src/events.ts", import.meta.url);

// What says nothing about a type. A word that is in neither list stops this program, so that no meaning is lost unseen.
const IGNORED = new Set(["title", "description", "default", "examples", "minimum", "minLength", "not"]);
const READ = new Set(["$ref", "const", "enum", "anyOf", "type", "items", "properties", "required"]);
const PLAIN = { string: "string", integer: "number", number: "number", boolean: "boolean", null: "null" };

const { $defs, oneOf, description } = JSON.parse(await readFile(SCHEMA, "utf8"));
const lines = new Set(oneOf.map(({ $ref }) => $ref.replace("#/$defs/", "")));

// Event and Error alone are names of the platform.
function nameOf(definition) {
  return lines.has(definition) ? `${definition}Event` : definition;
}

function typeOf(schema) {
  const strange = Object.keys(schema).filter((word) => !IGNORED.has(word) && !READ.has(word));
  if (strange.length) throw new Error(`This schema says what is not understood: ${strange.join(", ")}`);
  if (schema.$ref) return nameOf(schema.$ref.replace("#/$defs/", ""));
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" | ");
  if (schema.type === "array") return `Array<${schema.items ? typeOf(schema.items) : "unknown"}>`;
  if (schema.type === "object") return "Record<string, unknown>";
  if (schema.type in PLAIN) return PLAIN[schema.type];
  throw new Error(`This is no type: ${JSON.stringify(schema)}`);
}

function comment(schema, indent) {
  return schema.description ? [`${indent}/** ${schema.description} */`] : [];
}

function declaration(name, schema) {
  const required = new Set(schema.required);
  const fields = Object.entries(schema.properties).flatMap(([field, type]) => [
    ...comment(type, "  "),
    `  ${field}${required.has(field) ? "" : "?"}: ${typeOf(type)};`,
  ]);
  return [...comment(schema, ""), `export interface ${nameOf(name)} {`, ...fields, "}", ""];
}

const events = [...lines].filter((name) => "seq" in $defs[name].properties);
const text = `${[
  "// Made by scripts/events.mjs of docs/events.schema.json.",
  "",
  ...Object.keys($defs).sort().flatMap((name) => declaration(name, $defs[name])),
  ...comment({ description }, ""),
  "export type AnswerEvent =",
  ...events.map((name) => `  | ${nameOf(name)}`),
].join("\n")};\n`;
if (process.argv.includes("--print")) process.stdout.write(text);
else await writeFile(TYPES, text);
