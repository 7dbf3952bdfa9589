// Node `ws`: a room is a set of sockets, and an event is sent to each as its documentation shows ("server broadcast").
'use strict';

const { WebSocket, WebSocketServer } = require('ws');
const { listen, roomOf, serve } = require('./rooms.js');

const rooms = new Map();

const server = serve((room, body) => {
  for (const socket of rooms.get(room) ?? []) {
    if (socket.readyState === WebSocket.OPEN) {
      socket.send(body, { binary: false });
    }
  }
});

// Compression is off by default; it is said here because it would cost 100 KB a connection.
const sockets = new WebSocketServer({ server, perMessageDeflate: false, clientTracking: false });

sockets.on('connection', (socket, request) => {
  const room = roomOf(request) ?? '';
  if (!rooms.has(room)) {
    rooms.set(room, new Set());
  }
  const members = rooms.get(room);
  members.add(socket);
  socket.on('error', () => socket.terminate());
  socket.on('close', () => {
    members.delete(socket);
    if (members.size === 0) {
      rooms.delete(room);
    }
  });
});

listen(server);
