// The entries of a queue by name.
#pragma once

#include <cstddef>
#include <deque>
#include <string_view>
#include <vector>

#include "hora/queue/tensor_entry.h"

namespace hora {

// Owns the entries and keeps their memory for the next ones: once as many have been pending as ever
// will be, nothing is allocated. Entries never move. One thread at a time; nothing fails.
class EntryTable {
 public:
  EntryTable();

  // Null, and `entry` is as it was, when its name is taken.
  TensorEntry* Insert(TensorEntry&& entry);
  TensorEntry* Find(std::string_view name);
  void Erase(TensorEntry* entry);
  void Clear();  // their memory stays as well

  std::size_t size() const { return size_; }

  template <class Visit>
  void ForEach(Visit&& visit) const {
    for (const Node* node : buckets_) {
      for (; node != nullptr; node = node->next) visit(*node);
    }
  }

 private:
  struct Node : TensorEntry {
    std::size_t hash = 0;
    Node* next = nullptr;  // in its bucket, or free
  };

  Node*& BucketOf(std::size_t hash) { return buckets_[hash & (buckets_.size() - 1)]; }
  Node* TakeNode();
  void Widen();

  std::deque<Node> nodes_;
  Node* free_ = nullptr;
  std::vector<Node*> buckets_;  // a power of two, at least as many as entries
  std::size_t size_ = 0;
};

}  // namespace hora
