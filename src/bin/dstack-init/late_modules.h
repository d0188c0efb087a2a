// Work that can be done while dstack-guest waits for the network or for keys.
#pragma once

namespace dstack::init {

// Starts a child that inserts the modules of containers' networks. Nothing depends on it: what it has not
// done by then the kernel does when it is needed.
void insert_late_modules();

}  // namespace dstack::init
