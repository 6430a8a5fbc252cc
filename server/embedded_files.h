// Files of server/web, compiled in.
#pragma once

#include <string_view>

namespace palu {

extern const std::string_view kIndexHtml;
extern const std::string_view kOpenApiJson;

struct WebFile {
  std::string_view name;  // "page.css"
  const char* content_type;
  std::string_view content;
};
// What the page consists of besides its HTML; nullptr for any other name.
const WebFile* FindWebFile(std::string_view name);

}  // namespace palu
