#include "hora/queue/entry_table.h"

#include <functional>
#include <utility>

namespace hora {
namespace {

constexpr std::size_t kFewestBuckets = 64;

std::size_t HashOf(std::string_view name) { return std::hash<std::string_view>{}(name); }

}  // namespace

EntryTable::EntryTable() : buckets_(kFewestBuckets) {}

TensorEntry* EntryTable::Insert(TensorEntry&& entry) {
  const std::size_t hash = HashOf(entry.request.name);
  for (const Node* node = BucketOf(hash); node != nullptr; node = node->next) {
    if (node->hash == hash && node->request.name == entry.request.name) return nullptr;
  }
  if (size_ == buckets_.size()) Widen();
  Node* node = TakeNode();
  static_cast<TensorEntry&>(*node) = std::move(entry);
  node->hash = hash;
  node->next = std::exchange(BucketOf(hash), node);
  ++size_;
  return node;
}

TensorEntry* EntryTable::Find(std::string_view name) {
  const std::size_t hash = HashOf(name);
  for (Node* node = BucketOf(hash); node != nullptr; node = node->next) {
    if (node->hash == hash && node->request.name == name) return node;
  }
  return nullptr;
}

// The strings and lists of the entry stay until its place is used again.
void EntryTable::Erase(TensorEntry* entry) {
  Node* const node = static_cast<Node*>(entry);
  Node** link = &BucketOf(node->hash);
  while (*link != node) link = &(*link)->next;
  *link = node->next;
  node->handle = nullptr;
  node->next = std::exchange(free_, node);
  --size_;
}

void EntryTable::Clear() {
  for (Node* const first : buckets_) {
    for (Node* node = first; node != nullptr;) Erase(std::exchange(node, node->next));
  }
}

EntryTable::Node* EntryTable::TakeNode() {
  if (free_ == nullptr) return &nodes_.emplace_back();
  return std::exchange(free_, free_->next);
}

void EntryTable::Widen() {
  const std::vector<Node*> before = std::exchange(buckets_, std::vector<Node*>(2 * size_));
  for (Node* node : before) {
    while (node != nullptr) {
      Node* const next = node->next;
      node->next = std::exchange(BucketOf(node->hash), node);
      node = next;
    }
  }
}

}  // namespace hora
