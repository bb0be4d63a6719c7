"""TFRecord files: conversion, reading, statistics."""
