#include "app/yaml_check.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <vector>

#include "base/format.h"
#include "base/log.h"

namespace dstack::app {
namespace {

struct Refused {
  YAML::Mark mark;
  std::string why;
};

// yaml-cpp shares the nodes that aliases name, so that parsing a "billion laughs" is cheap and walking it is
// not: sizes are counted here as if every alias were a copy.
class Checker : public YAML::EventHandler {
 public:
  explicit Checker(std::size_t max_nodes) : m_max_nodes(max_nodes) {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (m_seen_document) {
      throw Refused{mark, "a second YAML document begins here; one is expected"};
    }
    m_seen_document = true;
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    check_key(mark, "");
    finish(mark, anchor, 1);
  }
  void OnScalar(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                const std::string& value) override {
    check_key(mark, value);
    finish(mark, anchor, 1);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    check_key(mark, std::nullopt);
    const auto size = m_sizes.find(anchor);
    if (size == m_sizes.end()) {
      throw Refused{mark, "an alias names a node that it is part of"};
    }
    finish(mark, 0, size->second);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    check_key(mark, std::nullopt);
    m_stack.push_back(Frame{mark, anchor, false, true, 1, {}});
  }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    check_key(mark, std::nullopt);
    m_stack.push_back(Frame{mark, anchor, true, true, 1, {}});
  }
  void OnSequenceEnd() override { close(); }
  void OnMapEnd() override { close(); }

 private:
  struct Frame {
    YAML::Mark mark;
    YAML::anchor_t anchor;
    bool is_map;
    bool at_key;
    std::size_t size;
    std::set<std::string> keys;
  };

  void check_key(const YAML::Mark& mark, const std::optional<std::string>& scalar) {
    if (m_stack.empty() || !m_stack.back().is_map || !m_stack.back().at_key) {
      return;
    }
    if (!scalar) {
      throw Refused{mark, "a mapping key must be plain text"};
    }
    if (!m_stack.back().keys.insert(*scalar).second) {
      throw Refused{mark, base::format("the key \"{}\" appears twice in one mapping",
                                       base::escape_control(scalar->substr(0, 100)))};
    }
  }
  void finish(const YAML::Mark& mark, YAML::anchor_t anchor, std::size_t size) {
    if (anchor != 0) {
      m_sizes[anchor] = size;
    }
    if (m_stack.empty()) {
      return;
    }
    Frame& parent = m_stack.back();
    parent.size += size;
    parent.at_key = !parent.at_key;
    if (parent.size > m_max_nodes) {
      throw Refused{mark, base::format("more than {} nodes once aliases are expanded", m_max_nodes)};
    }
  }
  void close() {
    const Frame frame = std::move(m_stack.back());
    m_stack.pop_back();
    finish(frame.mark, frame.anchor, frame.size);
  }

  std::size_t m_max_nodes;
  bool m_seen_document = false;
  std::vector<Frame> m_stack;
  std::map<YAML::anchor_t, std::size_t> m_sizes;
};

std::unexpected<base::Error> refuse(std::string_view name, const YAML::Mark& mark, std::string_view why) {
  if (mark.is_null()) {
    return base::fail(base::Code::parse, base::format("{}: {}", name, why));
  }
  return base::fail(base::Code::parse,
                    base::format("{}:{}:{}: {}", name, mark.line + 1, mark.column + 1, why));
}

}  // namespace

base::Result<> check_yaml(const std::string& text, std::string_view name, std::size_t max_nodes) {
  try {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    Checker checker(max_nodes);
    while (parser.HandleNextDocument(checker)) {
    }
    return {};
  } catch (const Refused& refused) {
    return refuse(name, refused.mark, refused.why);
  } catch (const YAML::Exception& exception) {
    return refuse(name, exception.mark, "not valid YAML: " + exception.msg);
  } catch (const std::exception& exception) {
    return refuse(name, YAML::Mark::null_mark(), std::string("not valid YAML: ") + exception.what());
  }
}

}  // namespace dstack::app
