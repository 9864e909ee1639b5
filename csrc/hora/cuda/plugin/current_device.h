// The device that the calling thread's calls are for.
#pragma once

namespace hora {

// CUDA makes a context, hundreds of megabytes, on whatever device is current to a thread that calls
// it: device 0 where nobody has chosen, of every process. So each call of ours is inside a scope
// that chooses first. A thread without a context keeps the device for good; one that has another
// gets it back at the end. Any thread.
class OnDevice {
 public:
  static OnDevice Of(int device) { return {device, nullptr}; }
  // Kernels start on their stream's device only. The default stream is that of the first device
  // that was asked for, whichever the caller has made current: a process works on one.
  static OnDevice OfStream(void* stream) {
    return stream == nullptr ? OnDevice(Usual(), nullptr) : OnDevice(-1, stream);
  }
  // One that this process uses.
  static OnDevice Any() { return {-1, nullptr}; }
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  // The calling thread's device; -1: it has no context, and is not given one.
  static int Current();

  int error() const { return error_; }  // a cudaError_t

 private:
  OnDevice(int device, void* stream);
  static int Usual();  // -1: none was asked for
  void Choose(int device);

  void* before_ = nullptr;  // the context to go back to; null: none
  int error_ = 0;
};

}  // namespace hora
