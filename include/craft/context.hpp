// Contexts: where a verb runs and whose threads and memory it uses. The context is the first argument of
// every verb. A context holds no global state; two threads may use two contexts at once, but one
// context serves one call at a time.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <new>
#include <utility>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "craft/engine/function_ref.hpp"
#include "craft/view.hpp"

namespace craft {

namespace engine {
class cpu_engine;
}

/// Scratch memory of a context: grows to what the largest call needed and is then reused, so that a
/// trainer's loop allocates nothing after its first step. Memory comes from the caller's functions, if given.
class workspace {
 public:
  /// Gives memory that is aligned to alignment() bytes, or throws.
  using allocate_function = std::function<void*(std::size_t bytes)>;
  using deallocate_function = std::function<void(void* memory, std::size_t bytes)>;  ///< of what the other one gave

  /// Holds nothing yet. Every piece will be aligned to so many bytes, a power of two and at least 64.
  explicit workspace(std::size_t alignment = 64) : alignment_(alignment) {}
  /// Exchanges the memory and the functions of the two.
  workspace(workspace&& other) noexcept : workspace(other.alignment_) { swap(other); }
  /// Exchanges the memory and the functions of the two.
  workspace& operator=(workspace&& other) noexcept {
    swap(other);
    return *this;
  }
  ~workspace() { release(); }

  /// Replaces the source of memory; what is held goes back first. Throws option_error during a call, and once it is pinned.
  void use(allocate_function allocate, deallocate_function deallocate) {
    require<option_error>(taken_ == 0, "workspace: memory functions cannot change during a call");
    require<option_error>(!pinned_, "workspace: memory functions cannot change any more, because a captured graph uses the memory");
    release();
    allocate_ = std::move(allocate);
    deallocate_ = std::move(deallocate);
  }

  std::size_t alignment() const { return alignment_; }  ///< of every piece of memory
  std::size_t bytes_held() const { return held_; }      ///< held now
  std::size_t bytes_used() const { return most_; }  ///< the most that any call so far has used
  /// Takes at least `bytes` in one piece, so that no later call within it allocates.
  void reserve(std::size_t bytes) {
    if (taken_ == 0 && held_ < bytes) {
      if (!pinned_) release();
      grow(bytes);
      at_ = used_ = 0;
    }
  }
  /// What is held from now on stays where it is for as long as the workspace lives: somebody keeps its addresses, as a captured
  /// graph does. A call that needs more takes further pieces.
  void pin() { pinned_ = true; }
  bool pinned() const { return pinned_; }  ///< whether pin has been called

  /// One call's memory: everything taken since its construction goes back when it ends. Frames nest.
  class frame {
   public:
    /// Begins a call's memory in w, which must outlive the frame.
    explicit frame(workspace& w) : w_(w), at_(w.at_), used_(w.used_), taken_(w.taken_) { ++w_.frames_; }
    frame(const frame&) = delete;
    frame& operator=(const frame&) = delete;
    ~frame() { w_.rewind(at_, used_, taken_); }
    /// n uninitialised T, 64-byte aligned, plus a little more so that whole vectors may be read at the end.
    template <class T>
    T* take(index_t n) {
      static_assert(std::is_trivially_destructible_v<T>);
      return static_cast<T*>(w_.take(std::size_t(std::max<index_t>(n, 0)) * sizeof(T)));
    }
    /// n zeros.
    template <class T>
    [[gnu::noinline]] T* zeros(index_t n) {
      T* p = take<T>(n);
      std::fill_n(p, n, T(0));
      return p;
    }

   private:
    workspace& w_;
    std::size_t at_, used_, taken_;
  };

 private:
  static constexpr std::size_t line = 64;  // arrays begin at its multiples
  struct chunk {
    std::byte* memory;
    std::size_t bytes;
  };

  [[gnu::noinline]] void* take(std::size_t bytes) {
    bytes = (bytes + 2 * line - 1) / line * line;  // one spare line behind every array
    for (; at_ < chunks_.size() && used_ + bytes > chunks_[at_].bytes; ++at_) used_ = 0;
    if (at_ == chunks_.size()) grow((std::max)(bytes, held_));
    void* p = chunks_[at_].memory + used_;
    used_ += bytes;
    taken_ += bytes;
    most_ = (std::max)(most_, taken_);
    return p;
  }
  [[gnu::noinline]] void grow(std::size_t bytes) {
    chunks_.reserve(chunks_.size() + 1);
    void* p = allocate_ ? allocate_(bytes) : ::operator new(bytes, std::align_val_t(alignment_));
    if (p == nullptr || reinterpret_cast<std::uintptr_t>(p) % alignment_ != 0) {
      if (deallocate_ && p != nullptr) deallocate_(p, bytes);
      fail<option_error>("workspace: the memory functions were asked for ", bytes, " bytes and gave an address that is 0 or no multiple of ",
                         alignment_);
    }
    chunks_.push_back({static_cast<std::byte*>(p), bytes});
    held_ += bytes;
    at_ = chunks_.size() - 1;
    used_ = 0;
  }
  [[gnu::noinline]] void rewind(std::size_t at, std::size_t used, std::size_t taken) {
    at_ = at;
    used_ = used;
    taken_ = taken;
    if (--frames_ > 0 || chunks_.size() < 2 || pinned_) return;
    release();  // the next call of this size finds one piece
    try {
      grow(most_);
    } catch (...) {  // then the next call will try again, and report
    }
  }
  [[gnu::noinline]] void release() noexcept {
    for (const chunk& c : chunks_) {
      if (deallocate_)
        deallocate_(c.memory, c.bytes);
      else
        ::operator delete(c.memory, std::align_val_t(alignment_));
    }
    chunks_.clear();
    held_ = used_ = at_ = 0;
  }
  void swap(workspace& o) noexcept {
    std::swap(chunks_, o.chunks_);
    std::swap(at_, o.at_);
    std::swap(used_, o.used_);
    std::swap(taken_, o.taken_);
    std::swap(held_, o.held_);
    std::swap(most_, o.most_);
    std::swap(frames_, o.frames_);
    std::swap(alignment_, o.alignment_);
    std::swap(pinned_, o.pinned_);
    std::swap(allocate_, o.allocate_);
    std::swap(deallocate_, o.deallocate_);
  }

  std::vector<chunk> chunks_;
  std::size_t at_ = 0, used_ = 0;  ///< the next free byte: in which chunk, and where
  std::size_t taken_ = 0, held_ = 0, most_ = 0;
  int frames_ = 0;
  std::size_t alignment_;
  bool pinned_ = false;
  allocate_function allocate_;
  deallocate_function deallocate_;
};

/// The CPU: a number of threads, scratch memory, and optionally the host program's own parallel-for.
///
///     craft::cpu ctx;                 // OpenMP's threads where the build has OpenMP, else one
///     craft::cpu ctx(4);              // at most four threads
///     ctx.parallel_for(my_pool, 8);   // the host's pool, eight tasks at a time
///
/// Results are bit-for-bit the same for any number of threads.
class cpu {
 public:
  static constexpr memory space = memory::host;        ///< where inputs and outputs lie
  using engine = craft::engine::cpu_engine;            ///< what the verbs run on
  using body_function = std::function<void(index_t)>;  ///< one task, by its number
  /// Calls body(0) ... body(count - 1), in any order and at the same time if it likes, and returns when all are done.
  using parallel_for_function = std::function<void(index_t count, const body_function& body)>;

  cpu() : cpu(default_threads()) {}  ///< OpenMP's threads where the build has OpenMP, else one
  /// At most that many threads. Throws option_error below one.
  explicit cpu(int threads) { this->threads(threads); }

  /// The most threads that a call uses, at least one; a call with little work uses fewer.
  int threads() const { return threads_; }
  cpu& threads(int n) {
    require<option_error>(n >= 1, "cpu: expected at least one thread, got ", n);
    threads_ = n;
    return *this;
  }

  /// Uses the host's pool instead of OpenMP; `threads` bodies at a time.
  cpu& parallel_for(parallel_for_function run, int threads) {
    this->threads(threads);
    run_ = std::move(run);
    return *this;
  }

  /// Rows per tile; 0 lets the engine choose, and then also use fewer threads where there is little work. Changes results
  /// only in the last digits.
  index_t tile() const { return tile_; }
  cpu& tile(index_t rows) {
    require<option_error>(rows >= 0, "cpu: tile rows must not be negative, got ", rows);
    tile_ = rows;
    return *this;
  }

  /// Looks for NaN and infinity in every input first, and throws data_error with their place. One more read of the
  /// inputs; off by default. Verbs that say so in their comment look anyway (data_error in error.hpp lists them).
  bool check_finite() const { return check_finite_; }
  cpu& check_finite(bool on) {
    check_finite_ = on;
    return *this;
  }

  /// Asked on the calling thread while a call runs, after every few milliseconds of work: if it says true, the call throws
  /// stopped_error. No value and no gradient has been written then; a matrix that is filled as the call goes (of `relative`) may be in
  /// part. Not asked within a parallel_for of the host's own, only between those.
  cpu& stop(std::function<bool()> asked) {
    stop_ = std::move(asked);
    return *this;
  }
  /// What `stop` was given; empty: nothing.
  const std::function<bool()>& stop() const { return stop_; }

  /// Scratch memory. Owned by the context, used by its calls.
  workspace& scratch() const { return scratch_; }

  /// Whether body(0) of run_slots is called on the calling thread.
  bool slot_0_is_here() const { return !run_; }
  /// Calls body(slot) for every slot in [0, slots), each exactly once; what the engine runs on.
  [[gnu::noinline]] void run_slots(index_t slots, craft::engine::function_ref<void(index_t)> body) const {
    if (slots <= 1) {
      if (slots == 1) body(index_t(0));
    } else if (run_) {
      run_(slots, body);
    } else {
#ifdef _OPENMP
#pragma omp parallel for num_threads(int(slots)) schedule(static, 1)
      for (index_t s = 0; s < slots; ++s) body(s);
#else
      for (index_t s = 0; s < slots; ++s) body(s);
#endif
    }
  }

 private:
  static int default_threads() {
#ifdef _OPENMP
    return (std::max)(1, omp_get_max_threads());
#else
    return 1;
#endif
  }

  int threads_ = 1;
  index_t tile_ = 0;
  bool check_finite_ = false;
  parallel_for_function run_;
  std::function<bool()> stop_;
  mutable workspace scratch_;
};

}  // namespace craft
