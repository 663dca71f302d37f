// The kernel of winograd.py: convolutions of 3x3, stride 1 and padding 1, by Winograd's F(4x4, 3x3).
//
// A tile is 4x4 pixels of the output, made of 6x6 pixels of the input. Both are transformed to 36 points, in each of
// which the convolution is a product of matrices: (tiles, channels) by (channels, outputs). A block of tiles goes
// through all three steps at once, so that what lies between them stays in the second-level cache.
//
// Tensors are float32, pixels in the order (rows, height, width, channels). Channels are a multiple of WIDTH, outputs
// of PANEL. It allocates nothing and keeps no state.

#include <algorithm>
#include <cstddef>

#if defined(__AVX512F__)
constexpr int WIDTH = 16, TILES = 12;  // 12 tiles by two vectors are 24 sums, in 32 registers
#elif defined(__AVX__)
constexpr int WIDTH = 8, TILES = 6;  // 12 sums in 16 registers
#else
constexpr int WIDTH = 4, TILES = 6;
#endif
constexpr int PANEL = 2 * WIDTH;  // outputs that are summed at once
constexpr int OUT = 4, IN = 6, POINTS = IN * IN;
constexpr int BLOCK = 2 * TILES;  // tiles; twice as many reuse each weight, more leave the cache

typedef float Vector __attribute__((vector_size(WIDTH * sizeof(float))));
typedef float Unaligned __attribute__((vector_size(WIDTH * sizeof(float)), aligned(alignof(float))));

static inline Vector load(const float *from) { return *reinterpret_cast<const Unaligned *>(from); }
static inline void store(float *to, Vector value) { *reinterpret_cast<Unaligned *>(to) = value; }

struct Shape {
  ptrdiff_t rows, height, width, channels, outputs;

  ptrdiff_t across() const { return (width + OUT - 1) / OUT; }
  ptrdiff_t down() const { return (height + OUT - 1) / OUT; }
  ptrdiff_t tiles() const { return rows * down() * across(); }
};

struct Tile {
  ptrdiff_t row, y, x;  // of its first pixel in the output

  Tile(const Shape &shape, ptrdiff_t number)
      : row(number / shape.across() / shape.down()),
        y(number / shape.across() % shape.down() * OUT),
        x(number % shape.across() * OUT) {}
};

// A point's floats in a block of tiles. The points are one cache line further apart than that, because at multiples
// of 4096 bytes all 36 would fall into the same few lines of the first-level cache.
static ptrdiff_t pitch(ptrdiff_t tiles, ptrdiff_t width) { return tiles * width + 16; }

static ptrdiff_t scratch_floats(const Shape &shape) {
  return POINTS * (pitch(BLOCK, shape.channels) + pitch(BLOCK, shape.outputs)) + shape.channels;
}

static inline void transform_input(const Vector *in, Vector *out) {
  Vector a = in[4] - 4 * in[2], b = in[3] - 4 * in[1], c = in[4] - in[2], d = 2 * (in[3] - in[1]);
  out[0] = 4 * in[0] - 5 * in[2] + in[4];
  out[1] = a + b;
  out[2] = a - b;
  out[3] = c + d;
  out[4] = c - d;
  out[5] = 4 * in[1] - 5 * in[3] + in[5];
}

static inline void transform_output(const Vector *in, Vector *out) {
  Vector a = in[1] + in[2], b = in[1] - in[2], c = in[3] + in[4], d = in[3] - in[4];
  out[0] = in[0] + a + c;
  out[1] = b + 2 * d;
  out[2] = a + 4 * c;
  out[3] = b + 8 * d + in[5];
}

// (points, channels / WIDTH, tiles, WIDTH)
static void inputs_to_points(const Shape &shape, const float *input, ptrdiff_t first, ptrdiff_t tiles, float *points,
                             const float *zeros) {
  const ptrdiff_t apart = pitch(tiles, shape.channels);
  for (ptrdiff_t t = 0; t < tiles; t++) {
    const Tile tile(shape, first + t);
    const float *pixels[IN][IN];
    for (int i = 0; i < IN; i++)
      for (int j = 0; j < IN; j++) {
        const ptrdiff_t y = tile.y + i - 1, x = tile.x + j - 1;
        const bool inside = y >= 0 && y < shape.height && x >= 0 && x < shape.width;
        pixels[i][j] = inside ? input + ((tile.row * shape.height + y) * shape.width + x) * shape.channels : zeros;
      }
    for (ptrdiff_t c = 0; c < shape.channels; c += WIDTH) {
      Vector half[IN][IN], column[IN], done[IN];
#pragma GCC unroll 6
      for (int j = 0; j < IN; j++) {
        for (int i = 0; i < IN; i++) column[i] = load(pixels[i][j] + c);
        transform_input(column, done);
        for (int i = 0; i < IN; i++) half[i][j] = done[i];
      }
#pragma GCC unroll 6
      for (int i = 0; i < IN; i++) {
        transform_input(half[i], done);
        for (int j = 0; j < IN; j++) store(points + (i * IN + j) * apart + c * tiles + t * WIDTH, done[j]);
      }
    }
  }
}

// One panel of outputs of COUNT tiles in one point; `tiles` are all of the block's.
template <int COUNT>
static void multiply(const float *points, const float *weights, float *sums, ptrdiff_t channels, ptrdiff_t tiles) {
  Vector sum[COUNT][2] = {};
  for (ptrdiff_t c = 0; c < channels; c += WIDTH, points += tiles * WIDTH)
#pragma GCC unroll 4
    for (int i = 0; i < WIDTH; i++, weights += PANEL) {
      const Vector left = load(weights), right = load(weights + WIDTH);
#pragma GCC unroll 12
      for (int t = 0; t < COUNT; t++) {
        sum[t][0] += left * points[t * WIDTH + i];
        sum[t][1] += right * points[t * WIDTH + i];
      }
    }
#pragma GCC unroll 12
  for (int t = 0; t < COUNT; t++) {
    store(sums + t * PANEL, sum[t][0]);
    store(sums + t * PANEL + WIDTH, sum[t][1]);
  }
}

using Multiply = void (*)(const float *, const float *, float *, ptrdiff_t, ptrdiff_t);

template <int COUNT = TILES>
static Multiply multiply_of(ptrdiff_t count) {
  if constexpr (COUNT == 1)
    return multiply<1>;
  else
    return count == COUNT ? multiply<COUNT> : multiply_of<COUNT - 1>(count);
}

// `sums`: (points, outputs / PANEL, tiles, PANEL)
static void multiply_points(const Shape &shape, const float *points, const float *weights, ptrdiff_t tiles,
                            float *sums) {
  const ptrdiff_t groups = (tiles + TILES - 1) / TILES;  // of as many tiles each as can be
  for (int point = 0; point < POINTS; point++)
    for (ptrdiff_t k = 0; k < shape.outputs; k += PANEL, weights += PANEL * shape.channels)
      for (ptrdiff_t group = 0; group < groups; group++) {
        const ptrdiff_t t = tiles * group / groups, count = tiles * (group + 1) / groups - t;
        multiply_of(count)(points + point * pitch(tiles, shape.channels) + t * WIDTH, weights,
                           sums + point * pitch(tiles, shape.outputs) + k * tiles + t * PANEL, shape.channels, tiles);
      }
}

static void sums_to_outputs(const Shape &shape, const float *sums, const float *bias, ptrdiff_t first, ptrdiff_t tiles,
                            float *output) {
  const ptrdiff_t apart = pitch(tiles, shape.outputs);
  for (ptrdiff_t t = 0; t < tiles; t++) {
    const Tile tile(shape, first + t);
    const ptrdiff_t high = shape.height - tile.y, wide = shape.width - tile.x;  // what there is of it
    float *pixel = output + ((tile.row * shape.height + tile.y) * shape.width + tile.x) * shape.outputs;
    for (ptrdiff_t k = 0; k < shape.outputs; k += WIDTH) {
      const float *from = sums + k / PANEL * PANEL * tiles + t * PANEL + k % PANEL;
      const Vector added = load(bias + k);
      Vector half[OUT][IN], column[IN], done[OUT];
#pragma GCC unroll 6
      for (int j = 0; j < IN; j++) {
        for (int i = 0; i < IN; i++) column[i] = load(from + (i * IN + j) * apart);
        transform_output(column, done);
        for (int i = 0; i < OUT; i++) half[i][j] = done[i];
      }
#pragma GCC unroll 4
      for (int i = 0; i < OUT; i++) {
        if (i >= high) break;
        transform_output(half[i], done);
#pragma GCC unroll 4
        for (int j = 0; j < OUT; j++)
          if (j < wide) store(pixel + (i * shape.width + j) * shape.outputs + k, done[j] + added);
      }
    }
  }
}

static void convolve_tiles(const Shape &shape, const float *input, const float *weights, const float *bias,
                           float *output, float *scratch, ptrdiff_t first, ptrdiff_t tiles) {
  float *points = scratch, *sums = points + POINTS * pitch(BLOCK, shape.channels);
  float *zeros = sums + POINTS * pitch(BLOCK, shape.outputs);
  std::fill(zeros, zeros + shape.channels, 0.0f);
  inputs_to_points(shape, input, first, tiles, points, zeros);
  multiply_points(shape, points, weights, tiles, sums);
  sums_to_outputs(shape, sums, bias, first, tiles, output);
}

extern "C" {

int winograd_width() { return WIDTH; }

int winograd_panel() { return PANEL; }

ptrdiff_t winograd_scratch(ptrdiff_t channels, ptrdiff_t outputs, ptrdiff_t threads) {
  return threads * scratch_floats({0, 0, 0, channels, outputs});
}

// `weights`: (points, outputs / PANEL, channels, PANEL); `scratch`: winograd_scratch() floats.
void winograd_convolve(ptrdiff_t rows, ptrdiff_t height, ptrdiff_t width, ptrdiff_t channels, ptrdiff_t outputs,
                       ptrdiff_t threads, const float *input, const float *weights, const float *bias, float *output,
                       float *scratch) {
  const Shape shape{rows, height, width, channels, outputs};
  const ptrdiff_t tiles = shape.tiles();
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (ptrdiff_t thread = 0; thread < threads; thread++) {
    const ptrdiff_t begin = tiles * thread / threads, count = tiles * (thread + 1) / threads - begin;
    const ptrdiff_t blocks = (count + BLOCK - 1) / BLOCK;
    for (ptrdiff_t block = 0; block < blocks; block++) {
      const ptrdiff_t first = begin + count * block / blocks, end = begin + count * (block + 1) / blocks;
      convolve_tiles(shape, input, weights, bias, output, scratch + thread * scratch_floats(shape), first, end - first);
    }
  }
}

}
