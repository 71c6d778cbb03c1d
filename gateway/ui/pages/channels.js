import { h } from "../dom.js";
import { CHANNELS } from "./connections.js";
import { listing } from "./list.js";

export const render = async (place) => [h("h1", {}, "Channels"), ...(await listing(place, "/channels", "channels", CHANNELS))];
