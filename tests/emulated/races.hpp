// What ThreadSanitizer is told of the emulated device, so that it reports, at its line, every pair of accesses to one number
// that nothing orders and of which one is a store: between threads of a block that no barrier separates, between blocks of a
// launch, between streams without an event, and between the device and a host that does not wait. Nothing of it is there
// without ThreadSanitizer (the preset tsan).
//
// To the sanitizer every CUDA thread of every block is a thread of its own, and so is every stream. A switch from one to the
// other orders nothing; what orders is said here, with a clock for each of it: what one publishes, the other learns.
//
//     host issues work  -> the stream           stream -> each thread of its next launch -> the stream
//     __syncthreads     -> the block            __syncwarp -> its lanes (a shuffle or a vote orders no memory)
//     event recorded    -> who waits for it     the default stream <-> streams that do not say non-blocking
//
// The emulation's own records are touched by all of them in turn and are not looked at. The blocks of a stream take turns with
// `blocks` sets of threads, so that a block and one that runs `blocks` later are one and the same to the sanitizer.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_THREAD__)
#define SIMT_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SIMT_TSAN 1
#endif
#endif
#ifndef SIMT_TSAN
#define SIMT_TSAN 0
#endif

#if SIMT_TSAN
#define SIMT_NO_RACES __attribute__((no_sanitize("thread")))
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void*);
void __tsan_switch_to_fiber(void*, unsigned);
void __tsan_acquire(void*);
void __tsan_release(void*);
void __tsan_read_range(void*, unsigned long);
void __tsan_write_range(void*, unsigned long);
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#else
#define SIMT_NO_RACES
#endif

namespace simt::races {

constexpr int threads = 1024;            // of a block, at most
constexpr int whole_block = threads;     // where the threads of a block meet; lanes of a warp meet where the lowest of them is
constexpr int nowhere = whole_block + 1;

#if SIMT_TSAN

constexpr int blocks = 2;

/// Its address is what the sanitizer knows. Apart, because it keeps its own record for every eight bytes.
struct alignas(8) clock {
  char unused = 0;
  void publish() { __tsan_release(this); }
  void learn() { __tsan_acquire(this); }
};

inline void look(bool at_memory) {
  (at_memory ? AnnotateIgnoreReadsEnd : AnnotateIgnoreReadsBegin)(__FILE__, __LINE__);
  (at_memory ? AnnotateIgnoreWritesEnd : AnnotateIgnoreWritesBegin)(__FILE__, __LINE__);
}
/// Memory is not looked at from here to the end of the scope.
struct unseen {
  unseen() { look(false); }
  unseen(const unseen&) = delete;
  unseen& operator=(const unseen&) = delete;
  ~unseen() { look(true); }
};
/// In an unseen scope: it does read, or write, these bytes.
inline void reads(const void* at, std::size_t bytes) {
  look(true);
  __tsan_read_range(const_cast<void*>(at), bytes);
  look(false);
}
inline void writes(void* at, std::size_t bytes) {
  look(true);
  __tsan_write_range(at, bytes);
  look(false);
}

/// Who does something, to the sanitizer.
class thread {
 public:
  thread() = default;
  thread(const thread&) = delete;
  thread& operator=(const thread&) = delete;
  SIMT_NO_RACES ~thread() {
    if (made_) __tsan_destroy_fiber(self_);
  }
  SIMT_NO_RACES void exist() {
    if (self_ == nullptr) self_ = __tsan_create_fiber(0), made_ = true;
  }
  SIMT_NO_RACES void be_this_one() { self_ = __tsan_get_current_fiber(); }
  SIMT_NO_RACES void go_on() const { __tsan_switch_to_fiber(self_, 1); }  // 1: which orders nothing

 private:
  void* self_ = nullptr;
  bool made_ = false;
};

struct stream {
  explicit stream(bool blocking_ = true) : blocking(blocking_) {}

  struct meeting_place {
    clock arrived, met;
  };
  thread self;
  const bool blocking;  ///< waits for the default stream, and the default stream for it
  clock issued, done;   ///< by the host; all work so far
  clock begun, ended;   ///< of a launch
  int block = 0;
  meeting_place places[blocks][threads + 1];  ///< where threads of a block and lanes of a warp meet
};
inline stream* running = nullptr;  // whose work it is

/// Runs the work as the stream, whose earlier work it follows. Only what its kernels do is looked at, and what it says itself.
template <class Work>
SIMT_NO_RACES auto as(stream& s, Work&& work) {
  struct turn {
    stream* const before = running;
    thread host;
    SIMT_NO_RACES explicit turn(stream& s_) {  // who enters a function must leave it, or the sanitizer's stack is wrong
      s_.self.exist();
      s_.issued.publish();
      host.be_this_one();
      running = &s_;
      s_.self.go_on();
      s_.issued.learn();
    }
    SIMT_NO_RACES ~turn() {
      running->done.publish();
      running = before;
      host.go_on();
    }
  } const ours(s);
  const unseen own_records;
  return work();
}

SIMT_NO_RACES inline void go_on_as(const thread& t) { t.go_on(); }
SIMT_NO_RACES inline void begin_thread() { running->begun.learn(); }
SIMT_NO_RACES inline void end_thread() { running->ended.publish(); }
SIMT_NO_RACES inline int next_block() { return running->block = (running->block + 1) % blocks; }

/// From when a stream launches a grid until all of it is done.
class launch {
 public:
  SIMT_NO_RACES explicit launch(thread& scheduler) {
    scheduler.be_this_one();
    running->begun.publish();
  }
  launch(const launch&) = delete;
  launch& operator=(const launch&) = delete;
  SIMT_NO_RACES ~launch() { running->ended.learn(); }
};

/// The last one to arrive knows of all others before anybody leaves.
SIMT_NO_RACES inline void arrive(int place, bool last) {
  if (place == nowhere) return;
  stream::meeting_place& p = running->places[running->block][place];
  p.arrived.publish();
  if (!last) return;
  p.arrived.learn();
  p.met.publish();
}
SIMT_NO_RACES inline void leave(int place) {
  if (place != nowhere) running->places[running->block][place].met.learn();
}

#else

constexpr int blocks = 1;
struct clock {
  void publish() {}
  void learn() {}
};
struct unseen {
  unseen() {}
  ~unseen() {}
};
inline void reads(const void*, std::size_t) {}
inline void writes(void*, std::size_t) {}
struct thread {
  void exist() {}
};
struct stream {
  explicit stream(bool blocking_ = true) : blocking(blocking_) {}
  const bool blocking;
  clock done;
};
constexpr stream* running = nullptr;
template <class Work>
auto as(stream&, Work&& work) {
  return work();
}
inline void go_on_as(const thread&) {}
inline void begin_thread() {}
inline void end_thread() {}
inline int next_block() { return 0; }
struct launch {
  explicit launch(thread&) {}
  ~launch() {}
};
inline void arrive(int, bool) {}
inline void leave(int) {}

#endif

}  // namespace simt::races
