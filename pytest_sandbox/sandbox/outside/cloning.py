"""How a sandbox below others is begun: who listens around it, what its init has to do, and the order to clone that.

Imports `pid1` and `running`.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import select

from pytest_sandbox._linux import proc
from pytest_sandbox._linux.clock import monotonic
from pytest_sandbox._linux.sockdiag import serves_network
from pytest_sandbox._linux.sockets import Socket
from pytest_sandbox.model.errors import SetupError, UnavailableError
from pytest_sandbox.model.spec import Network, Spec
from pytest_sandbox.sandbox.files.layout import DEEPEST, Layout
from pytest_sandbox.sandbox.inside import pid1
from pytest_sandbox.sandbox.inside.pid1 import Recipe
from pytest_sandbox.sandbox.outside.running import Running

#: How many recipes are remembered: of the tests at hand, and of the scopes around them.
_KEPT = 16


#: How long an init may take until there is room for another packet, in seconds.
_READ_TIME = 5.0


#: How long a sandbox may take to be made, on a busy machine and in the hands of a hostile scope, in seconds.
PATIENCE = 120.0


class Cloning:
    """Begins the sandboxes of a run; remembers what the last ones of each kind were made of."""

    def __init__(self, layout: Layout) -> None:
        self._layouts = [layout]
        self._recipes: dict[object, Recipe] = {}

    def begin(self, running: Running) -> None:
        """Let the init of the sandbox around it, which is ready, clone a new one, and leave that its orders."""
        parent, pending = running.parent, running.entering.pending
        if parent is None or pending is None:
            return
        with pending.inner:
            if running.depth >= DEEPEST:
                text = f"in {running.depth} others: {DEEPEST} levels are the most"
                running.problem, running.entering.refused = SetupError("make a sandbox", text, errno.ELOOP), True
                return
            running.entering.enter_by = monotonic() + PATIENCE
            running.entering.sockets, shares = _listeners(parent, running.order.spec.network)
            spec = _without_what_is_gone(running.order.spec)
            running.order = dataclasses.replace(running.order, spec=spec, shares_network=shares)
            if shares and _is_wider(parent, running.order.spec):
                why = "the test shares the network of the scope around it, which has not got that limit"
                fix = "--sandbox-bandwidth for the whole run, or network='loopback' for the test"
                running.problem, running.entering.refused = UnavailableError("the limit bandwidth", why, fix), True
                return
            running.entering.recipe = self._recipe(running)
            order = pid1.clone(self._layout(running.depth), shares_network=shares)
            try:
                parent.control.say(order, [pending.inner.fileno()])
                parent.below.clones[parent.below.cloned] = running
                parent.below.cloned += 1
                for packet in running.entering.recipe.packets:
                    _send(running.control, packet)
            except OSError as error:  # that init has died, which its pidfd will tell; or it does not read so much
                running.problem = SetupError("order a sandbox", f"of the init of {parent.name}", error.errno or 0)
                running.hang_up()

    def _layout(self, depth: int) -> Layout:
        while len(self._layouts) <= depth:
            self._layouts.append(self._layouts[-1].below())
        return self._layouts[depth]

    def _recipe(self, running: Running) -> Recipe:
        """Kept for the next sandbox of the same kind, unless its name is in it."""
        order = running.order
        key = (running.depth, order.spec, order.scope, order.shares_network, running.entering.sockets)
        found = self._recipes.pop(key, None)
        if found is None or order.spec.scratch is not None:
            found = pid1.recipe(self._layout(running.depth), order, running.entering.sockets)
        self._recipes[key] = found
        if len(self._recipes) > _KEPT:
            del self._recipes[next(iter(self._recipes))]
        return found


def _without_what_is_gone(spec: Spec) -> Spec:
    """The spec, without directories in common that somebody has removed meanwhile, as a test without a sandbox may."""
    there = tuple(path for path in spec.common if os.path.isdir(path) and not os.path.islink(path))
    return spec if there == spec.common else dataclasses.replace(spec, common=there)


def _is_wider(parent: Running, spec: Spec) -> bool:
    """Whether the network that a sandbox stays in may carry more than the sandbox is to have."""
    owner: Running = parent
    while owner.order.shares_network and owner.parent is not None:
        owner = owner.parent
    own, its = spec.limits.bandwidth, owner.order.spec.limits.bandwidth
    return own is not None and (owner.order.shares_network or its is None or its > own)


def _resolved(path: str) -> str:
    """A path without the links that the machine has in it (/var/run); init follows none, since a sandbox may have made them."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _send(control: Socket, packet: bytes) -> None:
    """Send a packet to an init, which reads as fast as it mounts. OSError: it is gone, or has not read for some seconds."""
    try:
        control.say(packet)
    except BlockingIOError:
        room = select.poll()
        room.register(control, select.POLLOUT)
        room.poll(_READ_TIME * 1000)
        control.say(packet)


def _listeners(parent: Running, wanted: Network) -> tuple[tuple[str, ...], bool]:
    """Unix sockets on paths where the scopes around listen, and whether a new sandbox stays in its parent's network."""
    if wanted is Network.HOST:
        return (), True
    if wanted not in (Network.AUTO, Network.SHARED) or parent.below.netlink is None:
        return (), False
    unix = proc.unix_listeners(parent.pid or "self")
    paths = tuple(dict.fromkeys((*parent.entering.sockets, *(_resolved(path) for path in unix if path.startswith("/")))))
    return paths, wanted is Network.SHARED or serves_network(parent.below.netlink, unix, parent.pid or "self")
