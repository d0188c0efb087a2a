// Guest images that the allow-list names: shown, and taken back.
#pragma once

#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/streams.h"
#include "host/image.h"
#include "host/layout.h"

namespace dstack::dstackup {

// One line that says which; "" when there is no list that can be read, or it names none.
std::string describe_allowed(const host::Layout& layout, const std::vector<host::Image>& images);

// image unpin
void add_image_unpin(cli::Command& image, const cli::Streams& streams);

}  // namespace dstack::dstackup
