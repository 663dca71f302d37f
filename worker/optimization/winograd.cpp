// The kernel of winograd.py: 3x3 convolutions with stride 1 and padding 1, by Winograd's F(4x4, 3x3).
//
// A tile is 4x4 pixels of the output, computed from 6x6 pixels of the input. Both are transformed to 6x6 points; in each
// point the convolution is a matrix product: (tiles, channels) by (channels, outputs). A block of tiles passes all three
// steps at once, so that intermediate results stay in the L2 cache. Where 4 does not divide a side, some tiles are 3
// pixels high or wide and have five points, which is cheaper than tiles of 4 that reach beyond the edge.
//
// Tensors are float32 in the order (rows, height, width, channels). Channels are a multiple of WIDTH, outputs of PANEL.
// The kernel allocates nothing and keeps no state.

#include <algorithm>
#include <cstddef>
#include <type_traits>

#if defined(__AVX512F__)
constexpr int WIDTH = 16, TILES = 12;  // 12 tiles by two vectors are 24 sums, in 32 registers
#elif defined(__AVX__)
constexpr int WIDTH = 8, TILES = 6;  // 12 sums in 16 registers
#else
constexpr int WIDTH = 4, TILES = 6;
#endif
constexpr int PANEL = 2 * WIDTH;  // outputs accumulated at once
constexpr int POINTS = 6;  // in each direction
constexpr int LEFT_OUT = 4;  // the point, in each direction, that tiles of 3 pixels lack
constexpr int BLOCK = 2 * TILES;  // tiles; twice as many reuse each weight, more leave the cache

typedef float Vector __attribute__((vector_size(WIDTH * sizeof(float))));
typedef float Unaligned __attribute__((vector_size(WIDTH * sizeof(float)), aligned(alignof(float))));

static inline Vector load(const float *from) { return *reinterpret_cast<const Unaligned *>(from); }
static inline void store(float *to, Vector value) { *reinterpret_cast<Unaligned *>(to) = value; }

// Divides a side into tiles of 4 pixels, then of 3, with the fewest points.
struct Side {
  ptrdiff_t pixels, fours = 0, threes = 0;

  explicit Side(ptrdiff_t pixels) : pixels(pixels), fours((pixels + 3) / 4) {
    for (ptrdiff_t few = 1; few <= 3; few++) {
      const ptrdiff_t others = std::max<ptrdiff_t>(0, (pixels - 3 * few + 3) / 4);
      if (6 * others + 5 * few < 6 * fours + 5 * threes) fours = others, threes = few;
    }
  }
  ptrdiff_t tiles(int size) const { return size == 4 ? fours : threes; }
  ptrdiff_t start(int size, ptrdiff_t number) const { return size == 4 ? 4 * number : 4 * fours + 3 * number; }
};

// Tiles are numbered kind by kind, such that tiles with a given point are contiguous.
struct Kind {
  int down, across;
};
constexpr Kind KINDS[] = {{3, 4}, {4, 4}, {4, 3}, {3, 3}};

struct Tile {
  Kind kind;
  ptrdiff_t row, y, x;  // of its first pixel in the output
};

struct Shape {
  ptrdiff_t rows, channels, outputs;
  Side height, width;
  ptrdiff_t ends[5] = {};  // number of the first tile of each kind, and the end of the last

  Shape(ptrdiff_t rows, ptrdiff_t height, ptrdiff_t width, ptrdiff_t channels, ptrdiff_t outputs)
      : rows(rows), channels(channels), outputs(outputs), height(height), width(width) {
    for (int k = 0; k < 4; k++)
      ends[k + 1] = ends[k] + rows * this->height.tiles(KINDS[k].down) * this->width.tiles(KINDS[k].across);
  }
  ptrdiff_t tiles() const { return ends[4]; }
  Tile tile(ptrdiff_t number) const {
    int k = 0;
    while (number >= ends[k + 1]) k++;
    const Kind kind = KINDS[k];
    const ptrdiff_t down = height.tiles(kind.down), across = width.tiles(kind.across);
    const ptrdiff_t x = (number - ends[k]) % across, line = (number - ends[k]) / across;
    return {kind, line / down, height.start(kind.down, line % down), width.start(kind.across, x)};
  }
};

// The floats of a point in a block of tiles, plus one cache line: at distances of a multiple of 4096 bytes all 36 points
// would map to the same few lines of the L1 cache.
static ptrdiff_t pitch(ptrdiff_t tiles, ptrdiff_t width) { return tiles * width + 16; }

static ptrdiff_t scratch_floats(const Shape &shape) {
  return POINTS * POINTS * (pitch(BLOCK, shape.channels) + pitch(BLOCK, shape.outputs)) + shape.channels;
}

// Transforms SIZE + 2 pixels to points. Points of both sizes use the same weights.
template <int SIZE>
static inline void transform_input(const Vector *in, Vector *out) {
  if constexpr (SIZE == 4) {
    Vector a = in[4] - 4 * in[2], b = in[3] - 4 * in[1], c = in[4] - in[2], d = 2 * (in[3] - in[1]);
    out[0] = 4 * in[0] - 5 * in[2] + in[4];
    out[1] = a + b;
    out[2] = a - b;
    out[3] = c + d;
    out[4] = c - d;
    out[5] = 4 * in[1] - 5 * in[3] + in[5];
  } else {
    out[0] = 4 * (in[0] - in[2]) + 2 * (in[3] - in[1]);
    out[1] = 3 * (in[3] - in[2] - 2 * in[1]);
    out[2] = in[3] - 3 * in[2] + 2 * in[1];
    out[3] = 4 * (in[3] - in[1]);
    out[5] = in[4] - in[2] + 2 * (in[1] - in[3]);
  }
}

// Transforms points to SIZE pixels.
template <int SIZE>
static inline void transform_output(const Vector *in, Vector *out) {
  Vector a = in[1] + in[2], b = in[1] - in[2];
  if constexpr (SIZE == 4) {
    Vector c = in[3] + in[4], d = in[3] - in[4];
    out[0] = in[0] + a + c;
    out[1] = b + 2 * d;
    out[2] = a + 4 * c;
    out[3] = b + 8 * d + in[5];
  } else {
    out[0] = in[0] + a + in[3];
    out[1] = b + 2 * in[3];
    out[2] = a + 4 * in[3] + in[5];
  }
}

template <int SIZE>
static constexpr bool has(int point) { return SIZE == 4 || point != LEFT_OUT; }

// `points`: (points, points, channels / WIDTH, tiles, WIDTH), from this tile on
template <int DOWN, int ACROSS>
static void tile_to_points(const Shape &shape, const float *input, const Tile &tile, ptrdiff_t tiles, float *points,
                           const float *zeros) {
  const ptrdiff_t apart = pitch(tiles, shape.channels), height = shape.height.pixels, width = shape.width.pixels;
  const float *pixels[DOWN + 2][ACROSS + 2];
  for (int i = 0; i < DOWN + 2; i++)
    for (int j = 0; j < ACROSS + 2; j++) {
      const ptrdiff_t y = tile.y + i - 1, x = tile.x + j - 1;
      const bool inside = y >= 0 && y < height && x >= 0 && x < width;
      pixels[i][j] = inside ? input + ((tile.row * height + y) * width + x) * shape.channels : zeros;
    }
  for (ptrdiff_t c = 0; c < shape.channels; c += WIDTH, points += tiles * WIDTH) {
    Vector half[POINTS][ACROSS + 2], column[DOWN + 2], done[POINTS];
#pragma GCC unroll 6
    for (int j = 0; j < ACROSS + 2; j++) {
      for (int i = 0; i < DOWN + 2; i++) column[i] = load(pixels[i][j] + c);
      transform_input<DOWN>(column, done);
      for (int i = 0; i < POINTS; i++)
        if (has<DOWN>(i)) half[i][j] = done[i];
    }
#pragma GCC unroll 6
    for (int i = 0; i < POINTS; i++) {
      if (!has<DOWN>(i)) continue;
      transform_input<ACROSS>(half[i], done);
      for (int j = 0; j < POINTS; j++)
        if (has<ACROSS>(j)) store(points + (i * POINTS + j) * apart, done[j]);
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

// `first`: the number of the first of the block's tiles; `sums`: (points, points, outputs / PANEL, tiles, PANEL)
static void multiply_points(const Shape &shape, const float *points, const float *weights, ptrdiff_t first,
                            ptrdiff_t tiles, float *sums) {
  for (int point = 0; point < POINTS * POINTS; point++) {
    // the numbers of the kinds that have the point: see KINDS
    const bool fours_down = point / POINTS == LEFT_OUT, fours_across = point % POINTS == LEFT_OUT;
    const ptrdiff_t begin = std::max(first, shape.ends[fours_down ? 1 : 0]) - first;
    const ptrdiff_t count = std::min(first + tiles, shape.ends[fours_across ? 2 : fours_down ? 3 : 4]) - first - begin;
    const ptrdiff_t groups = (count + TILES - 1) / TILES;  // of nearly equal numbers of tiles
    for (ptrdiff_t k = 0; k < shape.outputs; k += PANEL, weights += PANEL * shape.channels)
      for (ptrdiff_t group = 0; group < groups; group++) {
        const ptrdiff_t t = begin + count * group / groups, end = begin + count * (group + 1) / groups;
        multiply_of(end - t)(points + point * pitch(tiles, shape.channels) + t * WIDTH, weights,
                             sums + point * pitch(tiles, shape.outputs) + k * tiles + t * PANEL, shape.channels, tiles);
      }
  }
}

// `sums`: as above, from this tile on
template <int DOWN, int ACROSS>
static void tile_to_outputs(const Shape &shape, const float *sums, const float *bias, const Tile &tile,
                            ptrdiff_t tiles, float *output) {
  const ptrdiff_t apart = pitch(tiles, shape.outputs);
  const ptrdiff_t high = shape.height.pixels - tile.y, wide = shape.width.pixels - tile.x;  // the part within the output
  output += ((tile.row * shape.height.pixels + tile.y) * shape.width.pixels + tile.x) * shape.outputs;
  for (ptrdiff_t k = 0; k < shape.outputs; k += WIDTH) {
    const float *from = sums + k / PANEL * PANEL * tiles + k % PANEL;
    const Vector added = load(bias + k);
    Vector half[DOWN][POINTS], column[POINTS], done[ACROSS > DOWN ? ACROSS : DOWN];
#pragma GCC unroll 6
    for (int j = 0; j < POINTS; j++) {
      if (!has<ACROSS>(j)) continue;
      for (int i = 0; i < POINTS; i++)
        if (has<DOWN>(i)) column[i] = load(from + (i * POINTS + j) * apart);
      transform_output<DOWN>(column, done);
      for (int i = 0; i < DOWN; i++) half[i][j] = done[i];
    }
#pragma GCC unroll 4
    for (int i = 0; i < DOWN; i++) {
      if (i >= high) break;
      transform_output<ACROSS>(half[i], done);
#pragma GCC unroll 4
      for (int j = 0; j < ACROSS; j++)
        if (j < wide) store(output + (i * shape.width.pixels + j) * shape.outputs + k, done[j] + added);
    }
  }
}

// Calls with the tile's kind as template constants.
template <typename Function>
static void of_kind(const Kind &kind, Function function) {
  using Three = std::integral_constant<int, 3>;
  using Four = std::integral_constant<int, 4>;
  if (kind.down == 4)
    kind.across == 4 ? function(Four(), Four()) : function(Four(), Three());
  else
    kind.across == 4 ? function(Three(), Four()) : function(Three(), Three());
}

static void convolve_tiles(const Shape &shape, const float *input, const float *weights, const float *bias,
                           float *output, float *scratch, ptrdiff_t first, ptrdiff_t tiles) {
  float *points = scratch, *sums = points + POINTS * POINTS * pitch(BLOCK, shape.channels);
  float *zeros = sums + POINTS * POINTS * pitch(BLOCK, shape.outputs);
  std::fill(zeros, zeros + shape.channels, 0.0f);
  for (ptrdiff_t t = 0; t < tiles; t++) {
    const Tile tile = shape.tile(first + t);
    of_kind(tile.kind, [&](auto down, auto across) {
      tile_to_points<down, across>(shape, input, tile, tiles, points + t * WIDTH, zeros);
    });
  }
  multiply_points(shape, points, weights, first, tiles, sums);
  for (ptrdiff_t t = 0; t < tiles; t++) {
    const Tile tile = shape.tile(first + t);
    of_kind(tile.kind, [&](auto down, auto across) {
      tile_to_outputs<down, across>(shape, sums + t * PANEL, bias, tile, tiles, output);
    });
  }
}

extern "C" {

int winograd_width() { return WIDTH; }

int winograd_panel() { return PANEL; }

ptrdiff_t winograd_scratch(ptrdiff_t channels, ptrdiff_t outputs, ptrdiff_t threads) {
  return threads * scratch_floats(Shape(0, 0, 0, channels, outputs));
}

// `weights`: (points, outputs / PANEL, channels, PANEL); `scratch`: winograd_scratch() floats.
void winograd_convolve(ptrdiff_t rows, ptrdiff_t height, ptrdiff_t width, ptrdiff_t channels, ptrdiff_t outputs,
                       ptrdiff_t threads, const float *input, const float *weights, const float *bias, float *output,
                       float *scratch) {
  const Shape shape(rows, height, width, channels, outputs);
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
