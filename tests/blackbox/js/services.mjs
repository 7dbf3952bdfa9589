// A dashboard's services as its document describes them: a client that connects again by itself, measures its latency by ping and pong, hands messages out by their type and knows by their sequence
// which it has had already; and what its hooks make of the messages. With the real `ws`.
import WebSocket from "ws";

export const MessageType = Object.freeze({
  METRICS_UPDATE: "metrics_update",
  MODEL_UPDATE: "model_update",
  REQUEST_UPDATE: "request_update",
  ERROR_UPDATE: "error_update",
  SYSTEM_UPDATE: "system_update",
  HEARTBEAT: "heartbeat",
  PONG: "pong",
  INIT: "init",
  RATE_LIMIT_UPDATE: "rate_limit_update",
  COST_UPDATE: "cost_update",
  KV_CACHE_UPDATE: "kv_cache_update",
});

class WebSocketService {
  constructor(config, handlers = {}) {
    this.config = { reconnectInterval: 1000, maxReconnectInterval: 30000, reconnectDecay: 1.5, heartbeatInterval: 30000, heartbeatTimeout: 5000, ...config };
    this.handlers = handlers;
    this.subscriptions = new Set();
    this.queue = [];
    this.attempts = 0;
    this.sequence = -1;
    this.repeated = 0;
    this.latency = null;
  }

  connect() {
    this.wanted = true;
    this.socket = new WebSocket(this.config.url, this.config.protocols);
    this.socket.onopen = () => {
      this.handlers.onConnect?.();
      if (this.attempts > 0) this.handlers.onReconnected?.();
      this.attempts = 0;
      this.queue.splice(0).forEach((message) => this.send(message));
      this.ping();
      this.beat = setInterval(() => this.ping(), this.config.heartbeatInterval);
    };
    this.socket.onmessage = (event) => this.take(event.data);
    this.socket.onerror = (event) => this.handlers.onError?.(event.error ?? new Error(event.message));
    this.socket.onclose = (event) => {
      clearInterval(this.beat);
      clearTimeout(this.late);
      this.handlers.onDisconnect?.(event.reason);
      if (!this.wanted) return;
      const wait = Math.min(this.config.reconnectInterval * this.config.reconnectDecay ** this.attempts, this.config.maxReconnectInterval);
      this.attempts += 1;
      this.handlers.onReconnecting?.(this.attempts);
      this.again = setTimeout(() => this.connect(), wait);
    };
  }

  ping() {
    this.send({ type: "ping", data: { sent: performance.now() } });
    clearTimeout(this.late);
    this.late = setTimeout(() => this.socket.terminate(), this.config.heartbeatTimeout);
  }

  take(text) {
    const message = JSON.parse(text);
    if (message.type === MessageType.PONG) {
      clearTimeout(this.late);
      this.latency = performance.now() - message.data.sent;
    }
    if (message.type === MessageType.INIT) {
      this.sequence = message.sequence;
    } else if (message.sequence !== undefined) {
      if (message.sequence <= this.sequence) {
        this.repeated += 1;
        return;
      }
      this.sequence = message.sequence;
    }
    this.handlers.onMessage?.(message);
    this.subscriptions.forEach((subscription) => subscription.type === message.type && subscription.callback(message.data, message));
  }

  send(message) {
    if (this.socket?.readyState !== WebSocket.OPEN) {
      if (this.queue.length < 100) this.queue.push(message);
      return false;
    }
    this.socket.send(JSON.stringify(message));
    return true;
  }

  subscribe(type, callback) {
    const subscription = { type, callback, unsubscribe: () => this.subscriptions.delete(subscription) };
    this.subscriptions.add(subscription);
    return subscription;
  }

  disconnect() {
    this.wanted = false;
    clearTimeout(this.again);
    this.socket?.close();
  }

  destroy() {
    this.disconnect();
    this.subscriptions.clear();
  }
}

export const createWebSocketService = (config, handlers) => new WebSocketService(config, handlers);

// What the hook useRealtimeMetrics returns, kept up to date by a service's messages.
export function realtimeMetrics(service, { maxRecentRequests = 100, maxRecentErrors = 100 } = {}) {
  const state = { metrics: null, models: new Map(), recentRequests: [], recentErrors: [], systemStats: null, rateLimits: new Map(), costs: null, kvCache: null, lastUpdate: null };
  const on = (type, apply) => service.subscribe(type, (data, message) => {
    apply(data);
    state.lastUpdate = message.timestamp;
  });
  on(MessageType.INIT, (data) => {
    state.metrics = data.metrics;
    state.models = new Map(Object.entries(data.models));
    state.recentRequests = data.recent_requests.slice(0, maxRecentRequests);
    state.recentErrors = data.recent_errors.slice(0, maxRecentErrors);
    state.systemStats = data.system;
    state.rateLimits = new Map(Object.entries(data.rate_limits));
    state.costs = data.costs;
    state.kvCache = data.kv_cache;
  });
  on(MessageType.METRICS_UPDATE, (data) => { state.metrics = data; });
  on(MessageType.MODEL_UPDATE, (data) => state.models.set(data.model, data));
  on(MessageType.REQUEST_UPDATE, (data) => { state.recentRequests = [data, ...state.recentRequests].slice(0, maxRecentRequests); });
  on(MessageType.ERROR_UPDATE, (data) => { state.recentErrors = [data, ...state.recentErrors].slice(0, maxRecentErrors); });
  on(MessageType.SYSTEM_UPDATE, (data) => { state.systemStats = data; });
  on(MessageType.RATE_LIMIT_UPDATE, (data) => state.rateLimits.set(data.endpoint, data));
  on(MessageType.COST_UPDATE, (data) => { state.costs = data; });
  on(MessageType.KV_CACHE_UPDATE, (data) => { state.kvCache = data; });
  return state;
}
