// Blocks of CUDA threads on the CPU: every thread of the running block is a fiber, and a fiber runs until it returns or
// waits for others (__syncthreads, __syncwarp, a shuffle, a vote). Blocks run one after another on the thread that
// launches them. So the text of a kernel is compiled by the host compiler and can be stepped through, sanitized and run
// where there is no GPU.
//
// The order of threads is free between two barriers, so it is a knob: forward, reverse, or shuffled anew for every
// phase (CRAFT_EMULATED_ORDER, or set_order). A kernel that lacks a barrier gives other results in some of them, while
// it may look right on a device for years. What no order shows, because a thread runs from one barrier to the next without
// a break, ThreadSanitizer sees (races.hpp).
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "races.hpp"

#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMT_ASAN 1
#endif
#endif
#ifndef SIMT_ASAN
#define SIMT_ASAN 0
#endif
#if SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// The emulation's own records, touched at every switch, are not what the sanitizers are there for.
#if SIMT_ASAN
#define SIMT_UNWATCHED __attribute__((no_sanitize("address", "undefined")))
#elif SIMT_TSAN
#define SIMT_UNWATCHED SIMT_NO_RACES
#else
#define SIMT_UNWATCHED
#endif

// swapcontext asks the kernel for the signal mask at every switch, which costs a hundred times the switch itself, so
// that it only serves where the few instructions below do not.
#if !defined(__x86_64__) && !defined(SIMT_UCONTEXT)
#define SIMT_UCONTEXT 1
#endif
#ifdef SIMT_UCONTEXT
#include <ucontext.h>
#endif

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
  constexpr operator uint3() const { return {x, y, z}; }
};
inline uint3 threadIdx, blockIdx;  // of the thread that runs: set at every switch
inline dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

namespace simt {

constexpr int warp_lanes = 32;
constexpr int max_threads = 1024;  // of a block

/// In which order threads run between barriers, and blocks of a grid.
enum class order { forward, reverse, shuffled };

/// Called with the text of a fault (a barrier that some thread never reaches, a product outside its memory); the launch
/// is abandoned then. Without it the text goes to stderr and the program aborts.
inline std::function<void(const std::string&)> on_fault;

/// Held by every call of the runtime and for the whole of a kernel: the emulated device does one thing at a time.
inline std::recursive_mutex device_mutex;

// ---- fibers ---------------------------------------------------------------------------------------------------------

constexpr std::size_t stack_bytes = SIMT_ASAN ? 256 * 1024 : 64 * 1024;  // the sanitizer pads every local variable
constexpr std::size_t guard_bytes = 4096;  // below the stack: an overflow crashes

/// Where a fiber, or the scheduler, stands while another one runs.
struct context {
#ifdef SIMT_UCONTEXT
  ucontext_t machine_state;
#else
  void* stack_pointer;
#endif
  char* stack;  // lowest address, above the guard; nullptr until first used
  std::size_t bytes;
  void* fake_stack;  // AddressSanitizer's
  races::thread in_races;
};

#ifndef SIMT_UCONTEXT
#if defined(__clang__)
#define SIMT_OPAQUE __attribute__((naked, noinline))
#else
#define SIMT_OPAQUE __attribute__((naked, noipa))  // else gcc looks inside and keeps values in registers across it
#endif
/// Stores the stack pointer through the first argument and goes on from the second. Only what a call must preserve is
/// saved; kernels do not change the rounding mode.
SIMT_OPAQUE inline void switch_stack(void** /*from*/, void* /*to*/) {
  __asm__ volatile(
      "pushq %rbp\n\tpushq %rbx\n\tpushq %r12\n\tpushq %r13\n\tpushq %r14\n\tpushq %r15\n\t"
      "movq %rsp, (%rdi)\n\tmovq %rsi, %rsp\n\t"
      "popq %r15\n\tpopq %r14\n\tpopq %r13\n\tpopq %r12\n\tpopq %rbx\n\tpopq %rbp\n\tret");
}
#endif

// ---- the block that runs --------------------------------------------------------------------------------------------

enum class operation { syncthreads, syncwarp, shfl, shfl_xor, shfl_up, shfl_down, ballot, any, all, gather };
inline const char* name_of(operation what) {
  static constexpr const char* names[] = {"__syncthreads",   "__syncwarp",       "__shfl_sync",  "__shfl_xor_sync",
                                          "__shfl_up_sync",  "__shfl_down_sync", "__ballot_sync", "__any_sync",
                                          "__all_sync",      "warp_gather"};
  return names[int(what)];
}

/// What a thread waits for, what it brings and, once all have met, what it takes away. Filled in field by field: most of the
/// emulation's time is spent here, and a copy of the whole waits for the parts to be stored.
struct meeting {
  operation what;
  unsigned mask;         ///< lanes that take part
  int source;            ///< shuffles: the lane to read
  std::uint64_t value;   ///< shuffles: 8 bytes of the number; votes: the predicate
  std::uint64_t result;
  const void* given;     ///< gather: count numbers
  std::size_t bytes;
  const char* file;
  int line;
};

struct warp_state {
  unsigned exists = 0, ready = 0, waiting = 0, finished = 0;  ///< bit per lane; the rest wait at __syncthreads
  std::vector<std::uint64_t> gathered;
};

/// A fiber for every thread of a block.
struct fiber_set {
  std::array<context, max_threads> fibers{};

  fiber_set() = default;
  fiber_set(const fiber_set&) = delete;
  fiber_set& operator=(const fiber_set&) = delete;
  ~fiber_set() {
    for (context& fiber : fibers)
      if (fiber.stack != nullptr) munmap(fiber.stack - guard_bytes, guard_bytes + stack_bytes);
  }
};

struct machine_state {
  /// By stream and block, as far as races.hpp tells them apart.
  std::map<const void*, std::array<fiber_set, races::blocks>> fiber_sets;
  context* fibers = nullptr;  // of the block that runs
  context scheduler{};
  const context* came_from = nullptr;  // who gave up the processor last

  void (*body)(const void*) = nullptr;
  const void* arguments = nullptr;
  unsigned char* shared = nullptr;
  std::size_t shared_bytes = 0;

  int threads = 0, running = -1, at_barrier = 0, first_at_barrier = 0, finished = 0;
  std::array<uint3, max_threads> index{};
  std::array<meeting, max_threads> meetings{};
  std::array<warp_state, max_threads / warp_lanes> warps{};
  std::array<int, max_threads> phase{};  // threads that can run, in the order in which they shall
  int phase_size = 0, cursor = 0;
  std::string fault;

  bool order_known = false;
  order chosen = order::forward;
  std::uint64_t random = 1;
};
inline machine_state machine;

/// Chooses the order; the seed is for `shuffled`.
inline void set_order(order chosen, std::uint64_t seed = 1) {
  machine.order_known = true;
  machine.chosen = chosen;
  machine.random = seed * 0x9e3779b97f4a7c15u | 1;
}

/// The order that a text stands for: forward, reverse, shuffled (with seed 1), shuffled:SEED, or random, which is shuffled
/// with a seed that is drawn, and printed so that the run can be had again. Exits with 2 if it is none of these.
inline void set_order(const std::string& text) {
  if (text == "forward") return set_order(order::forward);
  if (text == "reverse") return set_order(order::reverse);
  if (text == "shuffled") return set_order(order::shuffled);
  char* end = nullptr;
  const std::string digits = text.rfind("shuffled:", 0) == 0 ? text.substr(9) : "";
  const std::uint64_t seed = text == "random" ? std::random_device()() : std::strtoull(digits.c_str(), &end, 10);
  if (text != "random" && (digits.empty() || digits[0] < '0' || digits[0] > '9' || *end != '\0')) {
    std::fprintf(stderr, "CRAFT_EMULATED_ORDER is '%s', not forward, reverse, shuffled, shuffled:SEED or random\n", text.c_str());
    std::exit(2);
  }
  std::fprintf(stderr, "emulated device: CRAFT_EMULATED_ORDER=shuffled:%llu\n", static_cast<unsigned long long>(seed));
  set_order(order::shuffled, seed);
}

/// The order in use: what set_order said, or else the environment.
inline order current_order() {
  if (!machine.order_known) {
    const char* text = std::getenv("CRAFT_EMULATED_ORDER");
    set_order(std::string(text == nullptr ? "forward" : text));
  }
  return machine.chosen;
}

template <class Iterator>
SIMT_UNWATCHED void put_in_order(Iterator first, Iterator last) {
  if (machine.chosen == order::reverse) std::reverse(first, last);
  if (machine.chosen != order::shuffled) return;
  for (auto left = last - first; left > 1; --left) {
    machine.random ^= machine.random << 13;
    machine.random ^= machine.random >> 7;
    machine.random ^= machine.random << 17;
    std::swap(first[left - 1], first[std::int64_t((machine.random >> 32) * std::uint64_t(left) >> 32)]);
  }
}

SIMT_UNWATCHED inline void after_switch([[maybe_unused]] context& here) {
#if SIMT_ASAN
  const void* stack = nullptr;
  std::size_t bytes = 0;
  __sanitizer_finish_switch_fiber(here.fake_stack, &stack, &bytes);
  if (machine.came_from == &machine.scheduler) {  // whose stack is the calling thread's: only the sanitizer knows it
    machine.scheduler.stack = static_cast<char*>(const_cast<void*>(stack));
    machine.scheduler.bytes = bytes;
  }
#endif
}

SIMT_UNWATCHED inline void jump(context& from, context& to) {
  machine.came_from = &from;
  races::go_on_as(to.in_races);
#if SIMT_ASAN
  __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.bytes);
#endif
#ifdef SIMT_UCONTEXT
  swapcontext(&from.machine_state, &to.machine_state);
#else
  __asm__ volatile("" ::: "memory");
  switch_stack(&from.stack_pointer, to.stack_pointer);
  __asm__ volatile("" ::: "memory");
#endif
  after_switch(from);
}

/// Hands the processor to the next thread of the phase, or to the scheduler after the last or after a fault.
SIMT_UNWATCHED inline void hand_on(context& from) {
  if (machine.cursor == machine.phase_size || !machine.fault.empty()) return jump(from, machine.scheduler);
  machine.running = machine.phase[std::size_t(machine.cursor++)];
  threadIdx = machine.index[std::size_t(machine.running)];
  jump(from, machine.fibers[machine.running]);
}

/// A fiber lives for the whole program and runs the thread of its number in one block after another.
SIMT_UNWATCHED inline void fiber_main() {
  context& here = machine.fibers[machine.running];
  const int thread = machine.running;
  after_switch(here);
  for (;;) {
    races::begin_thread();
    machine.body(machine.arguments);
    races::end_thread();
    machine.warps[std::size_t(thread / warp_lanes)].finished |= 1u << (thread % warp_lanes);
    ++machine.finished;
    hand_on(here);
  }
}

/// Gives a fiber its stack, and sets it to the beginning of fiber_main, whatever it was doing.
inline void rewind(context& fiber) {
  if (fiber.stack == nullptr) {
    void* memory = mmap(nullptr, guard_bytes + stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, guard_bytes, PROT_NONE) != 0) throw std::bad_alloc();
    fiber.stack = static_cast<char*>(memory) + guard_bytes;
    fiber.bytes = stack_bytes;
  }
#if SIMT_ASAN
  ASAN_UNPOISON_MEMORY_REGION(fiber.stack, fiber.bytes);
  fiber.fake_stack = nullptr;
#endif
  // Stacks lie a power of two apart; tops that differ keep the fibers out of each other's cache lines.
  const std::size_t colour = std::size_t(&fiber - machine.fibers) * 448 % 8192;
#ifdef SIMT_UCONTEXT
  getcontext(&fiber.machine_state);
  fiber.machine_state.uc_stack.ss_sp = fiber.stack;
  fiber.machine_state.uc_stack.ss_size = fiber.bytes - colour;
  fiber.machine_state.uc_link = nullptr;
  makecontext(&fiber.machine_state, &fiber_main, 0);
#else
  auto** top = reinterpret_cast<void**>(fiber.stack + fiber.bytes - colour);
  *--top = nullptr;  // fiber_main's return address: it has none, which ends stack traces, and so the stack is aligned
  *--top = reinterpret_cast<void*>(&fiber_main);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  fiber.stack_pointer = top;
#endif
}

// ---- faults ---------------------------------------------------------------------------------------------------------

inline std::string text_of(uint3 v) {
  return "(" + std::to_string(v.x) + "," + std::to_string(v.y) + "," + std::to_string(v.z) + ")";
}

/// A thread and what it does.
inline std::string text_of_thread(int thread) {
  const warp_state& warp = machine.warps[std::size_t(thread / warp_lanes)];
  const unsigned bit = 1u << (thread % warp_lanes);
  const std::string name = "thread " + text_of(machine.index[std::size_t(thread)]);
  if (warp.finished & bit) return name + " has returned";
  const meeting& at = machine.meetings[std::size_t(thread)];
  std::string text = name + " waits at " + name_of(at.what);
  if (at.what != operation::syncthreads) {
    char mask[16];
    std::snprintf(mask, sizeof mask, "0x%08x", at.mask);
    text += std::string(" with mask ") + mask;
  }
  return text + " (" + at.file + ":" + std::to_string(at.line) + ")";
}

inline void report(const std::string& text) {
  if (on_fault) return on_fault(text);
  std::fprintf(stderr, "emulated device: %s\n", text.c_str());
  std::abort();
}

inline void set_fault(const std::string& text) {
  if (machine.fault.empty()) machine.fault = "block " + text_of(blockIdx) + ": " + text;
}

/// Nobody can run, and somebody still waits: for whom?
inline void set_deadlock() {
  for (int thread = 0; thread < machine.threads; ++thread) {
    const warp_state& warp = machine.warps[std::size_t(thread / warp_lanes)];
    if (!(warp.waiting >> (thread % warp_lanes) & 1)) continue;
    const unsigned missing = machine.meetings[std::size_t(thread)].mask & ~warp.waiting;
    const int other = thread / warp_lanes * warp_lanes + (missing ? __builtin_ctz(missing) : 0);
    return set_fault(text_of_thread(thread) + ", but " + text_of_thread(other));
  }
  int waits = 0, left = 0;
  const auto has_returned = [](int thread) {
    return machine.warps[std::size_t(thread / warp_lanes)].finished >> (thread % warp_lanes) & 1;
  };
  while (has_returned(waits)) ++waits;
  while (!has_returned(left)) ++left;
  set_fault(text_of_thread(waits) + ", but " + text_of_thread(left));
}

// ---- barriers and collectives ---------------------------------------------------------------------------------------

SIMT_UNWATCHED inline void block_barrier(const char* file, int line) {
  const std::size_t thread = std::size_t(machine.running);
  meeting& mine = machine.meetings[thread];
  mine.what = operation::syncthreads;
  mine.file = file;
  mine.line = line;
  // Two threads at two different barriers happen to meet on some devices; the language does not promise it.
  if (machine.at_barrier++ == 0) machine.first_at_barrier = int(thread);
  const meeting& first = machine.meetings[std::size_t(machine.first_at_barrier)];
  if (first.line != line || (first.file != file && std::strcmp(first.file, file) != 0)) {
    set_fault(text_of_thread(int(thread)) + ", but others at " + first.file + ":" + std::to_string(first.line));
  }
  races::arrive(races::whole_block, machine.at_barrier == machine.threads);
  hand_on(machine.fibers[thread]);
  races::leave(races::whole_block);
}

/// All lanes of `lanes` have arrived: every one gets its result.
SIMT_UNWATCHED inline void finish_meeting(int first_thread, unsigned lanes) {
  warp_state& warp = machine.warps[std::size_t(first_thread / warp_lanes)];
  meeting* const lane = &machine.meetings[std::size_t(first_thread)];
  const meeting& one = lane[__builtin_ctz(lanes)];
  std::uint64_t votes = 0;
  for (int l = 0; l < warp_lanes; ++l) {
    if (!(lanes >> l & 1)) continue;
    if (lane[l].what != one.what || lane[l].mask != one.mask || lane[l].bytes != one.bytes) {
      return set_fault(text_of_thread(first_thread + l) + ", but " +
                       text_of_thread(first_thread + __builtin_ctz(lanes)));
    }
    if (lane[l].value != 0) votes |= std::uint64_t(1) << l;
  }
  if (one.what == operation::gather) {
    const races::unseen own_copies;
    warp.gathered.assign((warp_lanes * one.bytes + 7) / 8, ~std::uint64_t(0));
    for (int l = 0; l < warp_lanes; ++l)
      if (lanes >> l & 1)
        std::memcpy(reinterpret_cast<char*>(warp.gathered.data()) + std::size_t(l) * one.bytes, lane[l].given,
                    one.bytes);
  }
  for (int l = 0; l < warp_lanes; ++l) {
    if (!(lanes >> l & 1)) continue;
    switch (one.what) {
      case operation::ballot: lane[l].result = votes; break;
      case operation::any: lane[l].result = votes != 0; break;
      case operation::all: lane[l].result = votes == lanes; break;
      // What a lane that does not take part gives is undefined: NaN.
      default: lane[l].result = lanes >> lane[l].source & 1 ? lane[lane[l].source].value : ~std::uint64_t(0); break;
    }
  }
  warp.waiting &= ~lanes;
  warp.ready |= lanes;
}

/// Waits until the lanes of `mask` have come too. Lanes that the block does not have do not count.
SIMT_UNWATCHED inline std::uint64_t meet(operation what, unsigned mask, int source, std::uint64_t value, const void* given,
                          std::size_t bytes, const char* file, int line) {
  const std::size_t thread = std::size_t(machine.running);
  const int lane = int(thread) % warp_lanes;
  warp_state& warp = machine.warps[thread / warp_lanes];
  meeting& kept = machine.meetings[thread];
  kept.what = what;
  kept.mask = mask & warp.exists;
  kept.source = source;
  kept.value = value;
  kept.given = given;
  kept.bytes = bytes;
  kept.file = file;
  kept.line = line;
  warp.waiting |= 1u << lane;
  // Of all meetings of a warp only this one promises that what was stored before is there afterwards. Lanes that meet are told
  // from others by the lowest of them.
  const int place = what == operation::syncwarp ? int(thread) - lane + __builtin_ctz(kept.mask | 1u << lane) : races::nowhere;
  races::arrive(place, (warp.waiting & kept.mask) == kept.mask);
  if (!(kept.mask >> lane & 1)) {
    set_fault(text_of_thread(int(thread)) + ", which lacks the thread itself");
  } else if ((warp.waiting & kept.mask) == kept.mask) {
    finish_meeting(int(thread) - lane, kept.mask);
  }
  hand_on(machine.fibers[thread]);
  races::leave(place);
  return kept.result;
}

/// Every lane gives `count` numbers; afterwards each can read those of all 32 lanes, lane after lane, until the warp
/// gathers again. Fragments of tensor cores are put together from it.
template <class T>
const T* warp_gather(const T* mine, int count, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= 8);
  meet(operation::gather, ~0u, machine.running % warp_lanes, 0, mine, sizeof(T) * std::size_t(count), file, line);
  return reinterpret_cast<const T*>(machine.warps[std::size_t(machine.running / warp_lanes)].gathered.data());
}

/// A shuffle within segments of `width` lanes; a lane outside the segment means one's own number.
template <class T>
T shuffle(operation what, unsigned mask, T value, int argument, int width, const char* file, int line) {
  static_assert(sizeof(T) <= 8 && std::is_arithmetic_v<T>);
  const int lane = machine.running % warp_lanes, first = lane & ~(width - 1), last = first + width - 1;
  int source = lane;
  switch (what) {
    case operation::shfl: source = first | (argument & (width - 1)); break;
    case operation::shfl_xor: source = lane ^ argument; break;
    case operation::shfl_up: source = lane - argument; break;
    default: source = lane + argument; break;
  }
  if (source > last || source < 0 || (what == operation::shfl_up && source < first)) source = lane;
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = meet(what, mask, source, bits, nullptr, 0, file, line);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// ---- grids ----------------------------------------------------------------------------------------------------------

/// The dynamic shared memory of the running block, or nullptr if the launch asked for none.
inline void* shared_memory() { return machine.shared; }

/// The shared memory of one block: exactly as large as asked for and new, so that the sanitizers see one byte too many, and
/// nothing of another block.
struct block_memory {
  explicit block_memory(std::size_t bytes) {
    if (bytes == 0) return;
    machine.shared = static_cast<unsigned char*>(::operator new(bytes, std::align_val_t(64)));
    std::memset(machine.shared, 0xff, bytes);
  }
  block_memory(const block_memory&) = delete;
  block_memory& operator=(const block_memory&) = delete;
  ~block_memory() {
    if (machine.shared != nullptr) ::operator delete(machine.shared, std::align_val_t(64));
    machine.shared = nullptr;
  }
};

SIMT_UNWATCHED inline bool run_block() {
  const block_memory memory(machine.shared_bytes);
  const int warps = (machine.threads + warp_lanes - 1) / warp_lanes;
  const auto all_ready = [&] {
    for (int w = 0; w < warps; ++w) machine.warps[std::size_t(w)].ready = machine.warps[std::size_t(w)].exists;
    machine.at_barrier = 0;
  };
  for (int w = 0; w < warps; ++w) machine.warps[std::size_t(w)].waiting = machine.warps[std::size_t(w)].finished = 0;
  machine.finished = 0;
  all_ready();
  for (;;) {
    machine.phase_size = machine.cursor = 0;
    for (int w = 0; w < warps; ++w) {
      unsigned& ready = machine.warps[std::size_t(w)].ready;
      for (; ready != 0; ready &= ready - 1)
        machine.phase[std::size_t(machine.phase_size++)] = w * warp_lanes + __builtin_ctz(ready);
    }
    if (machine.phase_size > 0) {
      put_in_order(machine.phase.begin(), machine.phase.begin() + machine.phase_size);
      hand_on(machine.scheduler);
    } else if (machine.finished == machine.threads) {
      return true;
    } else if (machine.at_barrier == machine.threads) {
      all_ready();
    } else {
      set_deadlock();
    }
    if (!machine.fault.empty()) return false;
  }
}

/// Runs body(arguments) for every thread of the grid, as work of a stream (races.hpp). False, after report(), if a block went wrong; the rest is dropped
/// then.
SIMT_UNWATCHED inline bool run_grid(dim3 grid, dim3 block, std::size_t shared_bytes, void (*body)(const void*),
                                    const void* arguments) {
  current_order();
  machine.body = body;
  machine.arguments = arguments;
  machine.threads = int(block.x * block.y * block.z);
  blockDim = block;
  gridDim = grid;
  for (int thread = 0; thread < machine.threads; ++thread) {
    const std::size_t t = std::size_t(thread);
    const unsigned n = unsigned(thread);
    machine.index[t] = {n % block.x, n / block.x % block.y, n / block.x / block.y};
  }
  for (int first = 0; first < machine.threads; first += warp_lanes) {
    const int lanes = std::min(warp_lanes, machine.threads - first);
    machine.warps[std::size_t(first / warp_lanes)].exists = lanes == 32 ? ~0u : (1u << lanes) - 1;
  }

  machine.shared_bytes = shared_bytes;
  const std::uint64_t blocks = std::uint64_t(grid.x) * grid.y * grid.z;
  std::vector<std::uint64_t> sequence;
  if (machine.chosen == order::shuffled) {
    sequence.resize(blocks);
    for (std::uint64_t b = 0; b < blocks; ++b) sequence[b] = b;
    put_in_order(sequence.begin(), sequence.end());
  }
  machine.fault.clear();
  const races::launch ordered_by_its_stream(machine.scheduler.in_races);
  auto& sets = machine.fiber_sets[races::running];
  for (std::uint64_t i = 0; i < blocks; ++i) {
    machine.fibers = sets[std::size_t(races::next_block())].fibers.data();
    for (int thread = 0; thread < machine.threads; ++thread) {
      context& fiber = machine.fibers[thread];
      if (fiber.stack == nullptr) rewind(fiber);
      fiber.in_races.exist();  // made by the stream: a thread follows the one that makes it
    }
    const std::uint64_t b = machine.chosen == order::shuffled  ? sequence[i]
                            : machine.chosen == order::reverse ? blocks - 1 - i
                                                               : i;
    blockIdx = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / grid.x / grid.y)};
    if (run_block()) continue;
    for (int thread = 0; thread < machine.threads; ++thread) rewind(machine.fibers[thread]);
    const std::string text = std::move(machine.fault);
    machine.fault.clear();
    report(text);
    return false;
  }
  return true;
}

/// Of a stream that is gone.
inline void forget([[maybe_unused]] const races::stream& gone) {
  if constexpr (SIMT_TSAN) machine.fiber_sets.erase(&gone);
}

}  // namespace simt

// ---- the names that kernels use -------------------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

// Where the caller stands comes with the call, for the text of a fault.
#define SIMT_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(SIMT_SITE) { simt::block_barrier(file, line); }
inline void __syncwarp(unsigned mask = ~0u, SIMT_SITE) {
  simt::meet(simt::operation::syncwarp, mask, 0, 0, nullptr, 0, file, line);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, SIMT_SITE) {
  return simt::shuffle(simt::operation::shfl, mask, value, source, width, file, line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, SIMT_SITE) {
  return simt::shuffle(simt::operation::shfl_xor, mask, value, lanes, width, file, line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = 32, SIMT_SITE) {
  return simt::shuffle(simt::operation::shfl_up, mask, value, int(lanes), width, file, line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = 32, SIMT_SITE) {
  return simt::shuffle(simt::operation::shfl_down, mask, value, int(lanes), width, file, line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, SIMT_SITE) {
  return unsigned(simt::meet(simt::operation::ballot, mask, 0, predicate != 0, nullptr, 0, file, line));
}
inline int __any_sync(unsigned mask, int predicate, SIMT_SITE) {
  return int(simt::meet(simt::operation::any, mask, 0, predicate != 0, nullptr, 0, file, line));
}
inline int __all_sync(unsigned mask, int predicate, SIMT_SITE) {
  return int(simt::meet(simt::operation::all, mask, 0, predicate != 0, nullptr, 0, file, line));
}
#undef SIMT_SITE

inline void __threadfence() {}
inline void __threadfence_block() {}

// Whole numbers only: with float and double the order of the threads would show in the sums.
namespace simt {
template <class T>
using counter = std::enable_if_t<std::is_integral_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), T>;
template <class T>
struct same {
  using type = T;
};
template <class T>
using given = typename same<T>::type;  // converted to what the pointer says instead of deduced

/// What is there becomes change(what is there); returns what was there. Atomic to the sanitizer too, and orders nothing else.
template <class T, class Change>
counter<T> atomically(T* at, Change change) {
  T old = __atomic_load_n(at, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(at, &old, change(old), true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}
}  // namespace simt

template <class T>
simt::counter<T> atomicExch(T* at, simt::given<T> value) {
  return simt::atomically(at, [&](T) { return value; });
}
template <class T>
simt::counter<T> atomicAdd(T* at, simt::given<T> value) {
  using bits = std::make_unsigned_t<T>;  // wraps around, as the device does
  return simt::atomically(at, [&](T old) { return T(bits(old) + bits(value)); });
}
template <class T>
simt::counter<T> atomicMin(T* at, simt::given<T> value) {
  return simt::atomically(at, [&](T old) { return std::min(old, value); });
}
template <class T>
simt::counter<T> atomicMax(T* at, simt::given<T> value) {
  return simt::atomically(at, [&](T old) { return std::max(old, value); });
}
template <class T>
simt::counter<T> atomicCAS(T* at, simt::given<T> expected, simt::given<T> value) {
  return simt::atomically(at, [&](T old) { return old == expected ? value : old; });
}

template <class T>
T __ldg(const T* at) {
  return *at;
}
