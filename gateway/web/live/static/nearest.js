// What an embedding says: which of a few examples are nearest to a text.

export const EXAMPLES = [
  "A cat sleeps on the warm stones.",
  "The train to the coast leaves at nine.",
  "How do I reset my password?",
  "The soup needs more salt.",
  "Shares fell after the bank raised its rates.",
  "She won the race by half a second.",
  "The program ends with a segmentation fault.",
];

// Whether a model makes one vector of a text.
export function embeds({ input, outputs, classifier }) {
  const takesText = input.kinds.includes("text") && !input.kinds.includes("raw");
  return takesText && !classifier && outputs?.length === 1 && outputs[0].shape.length === 1;
}

// Return [example, cosine] of each, the nearest first. The first row of `data` is the text, the others the examples.
export function nearest({ outputs }) {
  const [text, ...others] = Object.values(outputs)[0].data;
  return EXAMPLES.map((example, n) => [example, cosine(text, others[n])]).sort(([, a], [, b]) => b - a);
}

function cosine(a, b) {
  const dot = (x, y) => x.reduce((sum, value, n) => sum + value * y[n], 0);
  return dot(a, b) / (Math.sqrt(dot(a, a) * dot(b, b)) || 1);
}
