// Several observers as one.
#pragma once

#include <initializer_list>
#include <vector>

#include "hora/observe/observer.h"

namespace hora {

// Passes every event on, in order. The observers outlive it.
class ObserverList final : public Observer {
 public:
  ObserverList(std::initializer_list<Observer*> observers) : observers_(observers) {}

  void OnSubmit(const OpLabel& label, std::uint64_t bytes) override {
    for (Observer* each : observers_) each->OnSubmit(label, bytes);
  }
  void OnAgreed(const OpLabel& label) override {
    for (Observer* each : observers_) each->OnAgreed(label);
  }
  void OnBatchBegin(const OpLabel& label, std::size_t members, std::uint64_t bytes) override {
    for (Observer* each : observers_) each->OnBatchBegin(label, members, bytes);
  }
  void OnInPlace(const OpLabel& label, std::uint64_t bytes) override {
    for (Observer* each : observers_) each->OnInPlace(label, bytes);
  }
  void OnBatchEnd(const OpLabel& label, const Status& status) override {
    for (Observer* each : observers_) each->OnBatchEnd(label, status);
  }
  void OnComplete(const OpLabel& label, const Status& status) override {
    for (Observer* each : observers_) each->OnComplete(label, status);
  }

 private:
  std::vector<Observer*> observers_;
};

}  // namespace hora
